/* See sk_adpcm.h. */
#include "soundkeep/sk_adpcm.h"

#include "soundkeep/sk_bytes.h"

static const int16_t STEPS[89] = {
    7,    8,    9,    10,   11,   12,    13,    14,    16,    17,    19,    21,    23,    25,   28,   31,   34,   37,
    41,   45,   50,   55,   60,   66,    73,    80,    88,    97,    107,   118,   130,   143,  157,  173,  190,  209,
    230,  253,  279,  307,  337,  371,   408,   449,   494,   544,   598,   658,   724,   796,  876,  963,  1060, 1166,
    1282, 1411, 1552, 1707, 1878, 2066,  2272,  2499,  2749,  3024,  3327,  3660,  4026,  4428, 4871, 5358, 5894, 6484,
    7132, 7845, 8630, 9493, 10442, 11487, 12635, 13899, 15289, 16818, 18500, 20350, 22385, 24623, 27086, 29794, 32767};
static const int8_t TURNS[8] = {-1, -1, -1, -1, 2, 4, 6, 8};

/* Moves the state by one code, in the whole-number arithmetic of the standard. */
static void follow(sk_adpcm *s, uint8_t code) {
    int32_t step = STEPS[s->index], size = step >> 3, value, index;
    if (code & 4u)
        size += step;
    if (code & 2u)
        size += step >> 1;
    if (code & 1u)
        size += step >> 2;
    value = (code & 8u) ? s->predictor - size : s->predictor + size;
    s->predictor = (int16_t)(value > 32767 ? 32767 : value < -32768 ? -32768 : value);
    index = s->index + TURNS[code & 7u];
    s->index = (uint8_t)(index < 0 ? 0 : index > 88 ? 88 : index);
}

static uint8_t code_of(sk_adpcm *s, int16_t sample) {
    int32_t step = STEPS[s->index], left = (int32_t)sample - s->predictor;
    uint8_t code = 0, bit;
    if (left < 0) {
        code = 8;
        left = -left;
    }
    for (bit = 4; bit; bit = (uint8_t)(bit >> 1)) {
        if (left >= step) {
            code = (uint8_t)(code | bit);
            left -= step;
        }
        step >>= 1;
    }
    follow(s, code);
    return code;
}

uint32_t sk_adpcm_encode(sk_adpcm *state, const int16_t *pcm, uint32_t n, uint8_t *out) {
    uint32_t i;
    uint8_t low, high;
    sk_put16(out, (uint16_t)state->predictor);
    out[2] = state->index;
    out[3] = (uint8_t)(n & 1u);
    for (i = 0; i < n; i += 2) {
        low = code_of(state, pcm[i]);
        high = i + 1 < n ? code_of(state, pcm[i + 1]) : 0;
        out[4 + i / 2] = (uint8_t)(low | (uint8_t)(high << 4));
    }
    return SK_ADPCM_BYTES(n);
}

int32_t sk_adpcm_decode(const uint8_t *block, uint32_t n_bytes, int16_t *pcm, uint32_t room) {
    sk_adpcm state;
    uint32_t n, i, bits;
    if (n_bytes < 4 || block[2] > 88 || block[3] > 1 || (block[3] && n_bytes == 4))
        return -1;
    if (n_bytes > 0x10000u)
        return -1;
    n = 2u * (n_bytes - 4u) - block[3];
    if (n > room)
        return -1;
    bits = sk_get16(block);
    state.predictor = (int16_t)(bits > 32767u ? (int32_t)bits - 65536 : (int32_t)bits);
    state.index = block[2];
    for (i = 0; i < n; i++) {
        follow(&state, (i & 1u) ? (uint8_t)(block[4 + i / 2] >> 4) : (uint8_t)(block[4 + i / 2] & 15u));
        pcm[i] = state.predictor;
    }
    return (int32_t)n;
}
