/* See sk_device.h. */
#include "soundkeep/sk_device.h"

#include <string.h>

#include "soundkeep/sk_model.h"

int sk_device_init(sk_device *d, const sk_about *about, void *memory, size_t n_memory, int16_t *window, uint8_t *out,
                   uint32_t n_out)
{
    sk_about all = *about;
    const int wrong = sk_init(&d->ctx, memory, n_memory);
    if (wrong != SK_OK)
        return wrong;
    d->mels = (uint8_t)(sk_mel_init(&d->mel, sk_model_default->front_end) == 0);
    if (!d->mels)
        all.formats = (uint8_t)(all.formats & ~SK_FORMAT_LOG_MEL);
    all.ear = sk_model_ear;
    all.front_end = sk_model_front_end_id;
    sk_link_init(&d->link, &all, out, n_out, &d->ctx.head);
    d->window = window;
    d->n_window = 0u;
    d->last = -1;
    return SK_OK;
}

static int is_silent(const int16_t *pcm)
{
    uint32_t i;
    for (i = 0u; i < SK_MODEL_WINDOW; i++)
        if (pcm[i] != 0)
            return 0;
    return 1;
}

/* sample: counter behind the window's last one. A label goes out with every window that is a taught sound, and with the first one that is none any more. */
static void judge(sk_device *d, uint32_t sample)
{
    const uint8_t n = is_silent(d->window) ? (uint8_t)0 : sk_classify(&d->ctx, d->window, d->scores);
    const int16_t index = n != 0u ? sk_head_decide(&d->ctx.head, d->scores) : (int16_t)-1;
    if (n == 0u)
        (void)sk_head_flip(&d->ctx.head); /* silence is a window's boundary too */
    d->link.n_windows++;
    if (n != 0u && d->link.greeted)
        sk_link_scores(&d->link, sample, d->scores, n);
    if (index >= 0 || d->last >= 0)
        sk_link_label(&d->link, sample, index, index >= 0 ? d->scores[index] : 0.0f);
    d->last = index;
}

static void send_frames(sk_device *d, const int16_t *pcm, uint32_t n)
{
    const uint8_t n_bands = (uint8_t)sk_model_default->front_end->n_bands;
    uint32_t used, sample = d->link.sample;
    while (n != 0u) {
        const int whole = sk_mel_push(&d->mel, pcm, n, &used, d->logs);
        pcm += used;
        n -= used;
        sample += used;
        if (whole)
            sk_link_frames(&d->link, sample - d->mel.n - sk_model_default->front_end->frame_hop, d->logs, n_bands, 1u);
    }
}

void sk_device_receive(sk_device *d, uint8_t byte)
{
    const uint8_t before = d->link.format;
    sk_link_receive(&d->link, byte);
    if (d->link.format != before && d->mels)
        sk_mel_reset(&d->mel);
}

void sk_device_hear(sk_device *d, const int16_t *pcm, uint32_t n, uint32_t waiting)
{
    if (d->mels && d->link.format == SK_FORMAT_LOG_MEL)
        send_frames(d, pcm, n);
    sk_link_sound(&d->link, pcm, n);
    while (n != 0u) {
        const uint32_t room = SK_MODEL_WINDOW - d->n_window, taken = n < room ? n : room;
        memcpy(d->window + d->n_window, pcm, taken * sizeof *pcm);
        d->n_window += taken;
        pcm += taken;
        n -= taken;
        if (d->n_window == SK_MODEL_WINDOW) {
            if (waiting < SK_MODEL_HOP)
                judge(d, d->link.sample - n);
            else
                d->link.n_passed_over++;
            d->n_window = SK_MODEL_WINDOW - SK_MODEL_HOP;
            memmove(d->window, d->window + SK_MODEL_HOP, d->n_window * sizeof *pcm);
        }
    }
}

void sk_device_lost(sk_device *d, uint32_t n)
{
    sk_link_lost(&d->link, n);
    d->n_window = 0u;
    if (d->mels)
        sk_mel_reset(&d->mel);
}
