/* A plan in int8: front end in float, its features rounded to int8, whole numbers up to the last product. */
#include "soundkeep/sk_frontend.h"
#include "soundkeep/sk_kernels.h"
#include "soundkeep/sk_math.h"

static int8_t *at(unsigned char *arena, uint32_t offset)
{
    return (int8_t *)(arena + offset);
}

static float *floats_at(unsigned char *arena, uint32_t offset)
{
    return (float *)(void *)(arena + offset);
}

/* Features take the place of the powers: the i-th byte is written after the i-th number was read. */
void sk_features_int8(const sk_model *model, const int16_t *pcm, unsigned char *arena)
{
    const sk_front_end *fe = model->front_end;
    const float *powers = floats_at(arena, model->powers);
    int8_t *features = at(arena, model->powers);
    const float level = sk_window_powers(fe, pcm, floats_at(arena, model->scratch), floats_at(arena, model->powers));
    const uint32_t n = (uint32_t)fe->n_bands * fe->n_frames;
    uint32_t i;
    for (i = 0u; i < n; i++) {
        const int32_t value = sk_round(sk_feature(fe, powers[i], level) / model->quantum) + model->zero;
        features[i] = (int8_t)(value < -128 ? -128 : value > 127 ? 127 : value);
    }
}

void sk_run_int8(const sk_model *model, const int16_t *pcm, unsigned char *arena)
{
    uint32_t i;
    sk_features_int8(model, pcm, arena);
    for (i = 0u; i < model->n_ops; i++) {
        const sk_op *op = model->ops + i;
        const int8_t *in = at(arena, op->in);
        int8_t *out = at(arena, op->out);
        if (op->kind == SK_OP_CONV)
            sk_conv_int8(op, in, out);
        else if (op->kind == SK_OP_ADD)
            sk_add_int8(op, in, at(arena, op->other), out);
        else if (op->kind == SK_OP_READ_OUT)
            sk_read_out_int8(op, in, floats_at(arena, op->out));
        else
            sk_pool_int8(op, in, out);
    }
}
