/* A plan in float: front end, then one step after the other. */
#include "soundkeep/sk_frontend.h"
#include "soundkeep/sk_kernels.h"

static float *at(unsigned char *arena, uint32_t offset)
{
    return (float *)(void *)(arena + offset);
}

void sk_run_float32(const sk_model *model, const int16_t *pcm, unsigned char *arena)
{
    const sk_front_end *fe = model->front_end;
    float *features = at(arena, model->powers);
    const float level = sk_window_powers(fe, pcm, at(arena, model->scratch), features);
    const uint32_t n = (uint32_t)fe->n_bands * fe->n_frames;
    uint32_t i;
    for (i = 0u; i < n; i++)
        features[i] = sk_feature(fe, features[i], level);
    for (i = 0u; i < model->n_ops; i++) {
        const sk_op *op = model->ops + i;
        const float *in = at(arena, op->in);
        float *out = at(arena, op->out);
        if (op->kind == SK_OP_CONV)
            sk_conv_float32(op, in, out);
        else if (op->kind == SK_OP_ADD)
            sk_add_float32(op, in, at(arena, op->other), out);
        else
            sk_pool_float32(op, in, out);
    }
}
