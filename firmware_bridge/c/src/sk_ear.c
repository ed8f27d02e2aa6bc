/* Runs a plan in the caller's memory; unit length and grid as on the host (edge.space). */
#include "soundkeep/sk_ear.h"

#include <string.h>

#include "soundkeep/sk_math.h"

int sk_ear_init(sk_ear *ear, const sk_model *model, void *arena, size_t size)
{
    if (size < model->arena_bytes)
        return SK_ARENA_TOO_SMALL;
    if ((uintptr_t)arena % SK_ARENA_ALIGNMENT != 0u)
        return SK_ARENA_MISALIGNED;
    ear->model = model;
    ear->arena = arena;
    return SK_OK;
}

void sk_ear_embed(const sk_ear *ear, const int16_t *pcm, float *embedding)
{
    ear->model->run(ear->model, pcm, ear->arena);
    memcpy(embedding, ear->arena + ear->model->embedding, sizeof(float) * ear->model->dim);
}

void sk_to_grid(const float *embedding, uint32_t dim, float scale, int16_t *grid)
{
    float sum = 0.0f, length;
    uint32_t i;
    for (i = 0u; i < dim; i++)
        sum += embedding[i] * embedding[i];
    length = sk_sqrt(sum);
    for (i = 0u; i < dim; i++)
        grid[i] = (int16_t)(length > 0.0f ? sk_round_even(embedding[i] / length * scale) : 0);
}
