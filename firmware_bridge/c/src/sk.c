/* Ear and head in one memory: the plan's arena first, the banks behind it. */
#include "soundkeep/sk.h"

int sk_init(sk_ctx *ctx, void *arena, size_t size)
{
    const sk_model *model = sk_model_default;
    const uint32_t ear_bytes = (model->arena_bytes + SK_ARENA_ALIGNMENT - 1u) / SK_ARENA_ALIGNMENT * SK_ARENA_ALIGNMENT;
    unsigned char *rest = (unsigned char *)arena + ear_bytes;
    const int wrong = sk_ear_init(&ctx->ear, model, arena, size);
    if (wrong != SK_OK)
        return wrong;
    if (size < ear_bytes || size - ear_bytes > UINT32_MAX)
        return SK_ARENA_TOO_SMALL;
    if (sk_head_init(&ctx->head, (float *)(void *)rest, (uint32_t)(size - ear_bytes), sk_model_ear, model->dim) != 0)
        return SK_ARENA_TOO_SMALL;
    if (sk_model_head_bytes != 0u && sk_head_load(&ctx->head, sk_model_head, sk_model_head_bytes) != 0u)
        return SK_HEAD_REFUSED;
    return SK_OK;
}

uint8_t sk_classify(sk_ctx *ctx, const int16_t *pcm, float *scores)
{
    const sk_model *model = ctx->ear.model;
    (void)sk_head_flip(&ctx->head);
    model->run(model, pcm, ctx->ear.arena);
    return sk_head_scores(&ctx->head, sk_embedding(ctx), scores);
}

const float *sk_embedding(const sk_ctx *ctx)
{
    return (const float *)(const void *)(ctx->ear.arena + ctx->ear.model->embedding);
}
