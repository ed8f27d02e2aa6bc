/* See sk_mel.h. */
#include "soundkeep/sk_mel.h"

#include <string.h>

#include "soundkeep/sk_math.h"

#define STEPS_PER_NAT 369.32994f /* 256 / log 2 */
#define LEAST 1.2e-38f

int sk_mel_init(sk_mel *m, const sk_front_end *fe)
{
    if (fe->n_fft > SK_MEL_MAX_FRAME || fe->frame_length > SK_MEL_MAX_FRAME || fe->n_bands > SK_MEL_MAX_BANDS)
        return -1;
    m->front_end = fe;
    m->n = 0u;
    return 0;
}

void sk_mel_reset(sk_mel *m) { m->n = 0u; }

static int16_t log_of(float power)
{
    int32_t steps;
    if (power < LEAST)
        return SK_MEL_SILENT;
    steps = sk_round(STEPS_PER_NAT * sk_log(power));
    return (int16_t)(steps > 32767 ? 32767 : steps < -32767 ? -32767 : steps);
}

int sk_mel_push(sk_mel *m, const int16_t *pcm, uint32_t n, uint32_t *used, int16_t *logs)
{
    const sk_front_end *fe = m->front_end;
    const uint32_t wanted = (uint32_t)fe->frame_length - m->n;
    uint32_t b;
    *used = n < wanted ? n : wanted;
    memcpy(m->waiting + m->n, pcm, *used * sizeof *pcm);
    m->n = (uint16_t)(m->n + *used);
    if (m->n < fe->frame_length)
        return 0;
    sk_frame_powers(fe, m->waiting, m->scratch, m->bands, 1u);
    for (b = 0u; b < fe->n_bands; b++)
        logs[b] = log_of(m->bands[b]);
    m->n = (uint16_t)(m->n - fe->frame_hop);
    memmove(m->waiting, m->waiting + fe->frame_hop, m->n * sizeof *pcm);
    return 1;
}
