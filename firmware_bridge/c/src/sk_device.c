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
    d->lessons = NULL;
    return SK_OK;
}

static uint8_t teach(void *user, uint8_t index);

static int is_silent(const int16_t *pcm)
{
    uint32_t i;
    for (i = 0u; i < SK_MODEL_WINDOW; i++)
        if (pcm[i] != 0)
            return 0;
    return 1;
}

int sk_device_lets_teach(sk_device *d, sk_lessons *lessons, float *storage, uint32_t n, int16_t *grids,
                         uint8_t n_classes, float ridge)
{
    memset(lessons, 0, sizeof *lessons);
    if (sk_update_init(&lessons->update, storage, n, SK_MODEL_DIM, n_classes, ridge) != 0)
        return -1;
    lessons->grids = grids;
    lessons->n_flips = d->ctx.head.n_flips;
    d->lessons = lessons;
    d->link.teach = teach;
    d->link.user = d;
    return 0;
}

static uint8_t teach(void *user, uint8_t index) { return sk_device_teach(user, index); }

uint8_t sk_device_teach(sk_device *d, uint8_t index)
{
    const uint8_t n = sk_head_n_classes(&d->ctx.head);
    if (d->lessons == NULL)
        return SK_STATUS_UNSUPPORTED;
    if (index != SK_UPDATE_NONE && (index >= d->lessons->update.n_classes || (n != 0u && index >= n)))
        return SK_STATUS_TOO_LARGE;
    d->lessons->asked = 1u;
    d->lessons->index = index;
    return SK_STATUS_DONE;
}

/* What a host was not told yet; sent as far as there is room. */
static void tell_lessons(sk_device *d)
{
    sk_lessons *l = d->lessons;
    if (l->n - l->told > SK_DEVICE_LESSONS)
        l->told = l->n - SK_DEVICE_LESSONS;
    while (l->told != l->n) {
        const uint32_t place = l->told % SK_DEVICE_LESSONS;
        if (sk_ring_free(&d->link.out) < SK_MAX_PACKET ||
            !sk_link_example(&d->link, l->samples[place], l->versions[place], l->classes[place], l->names[place],
                             l->grids + place * l->update.dim, l->update.dim))
            return;
        l->told++;
    }
}

static size_t name_bytes(const char *name)
{
    size_t n = 0u;
    while (n < SK_HEAD_NAME_BYTES - 1u && name[n] != '\0')
        n++;
    return n + 1u;
}

/* Learns the window if that was asked for, and lets what was learnt here speak where the head knows nothing. index: what
 * the head says. Returns what the device says. */
static int16_t by_lessons(sk_device *d, uint32_t sample, int16_t index, float *score)
{
    sk_lessons *l = d->lessons;
    const uint32_t dim = l->update.dim;
    uint32_t i, best = 0u;
    if (!l->asked && l->update.n_learnt == 0u)
        return index;
    sk_to_grid(sk_embedding(&d->ctx), dim, SK_MODEL_GRID, l->grid);
    for (i = 0u; i < dim; i++)
        l->x[i] = (float)l->grid[i] / SK_MODEL_GRID;
    if (l->asked && sk_update_learn(&l->update, l->x, l->index) == 0) {
        const uint32_t place = l->n % SK_DEVICE_LESSONS;
        memcpy(l->grids + place * dim, l->grid, dim * sizeof *l->grid);
        l->samples[place] = sample;
        l->versions[place] = sk_head_version(&d->ctx.head);
        l->classes[place] = l->index;
        memcpy(l->names[place], sk_head_name(&d->ctx.head, l->index), name_bytes(sk_head_name(&d->ctx.head, l->index)));
        l->n++;
    }
    l->asked = 0u;
    sk_update_scores(&l->update, l->x, l->scores);
    for (i = 1u; i < l->update.n_classes; i++)
        if (l->scores[i] > l->scores[best])
            best = i;
    if (index >= 0 || l->scores[best] < SK_DEVICE_LEAST)
        return index;
    *score = l->scores[best];
    return (int16_t)best;
}

/* sample: counter behind the window's last one. A label goes out with every window that is a taught sound, and with the
 * first one that is none any more. */
static void judge(sk_device *d, uint32_t sample)
{
    const uint8_t silent = (uint8_t)is_silent(d->window);
    uint8_t n = 0u;
    int16_t index = -1;
    float score = 0.0f;
    if (silent)
        (void)sk_head_flip(&d->ctx.head); /* silence is a window's boundary too */
    else
        n = sk_classify(&d->ctx, d->window, d->scores);
    d->link.n_windows++;
    if (d->lessons != NULL && d->ctx.head.n_flips != d->lessons->n_flips) { /* a host's word is the last one */
        sk_update_reset(&d->lessons->update);
        d->lessons->n_flips = d->ctx.head.n_flips;
    }
    if (n != 0u) {
        index = sk_head_decide(&d->ctx.head, d->scores);
        score = index >= 0 ? d->scores[index] : 0.0f;
        if (d->link.greeted)
            sk_link_scores(&d->link, sample, d->scores, n);
    }
    if (d->lessons != NULL && !silent)
        index = by_lessons(d, sample, index, &score);
    if (index >= 0 || d->last >= 0)
        sk_link_label(&d->link, sample, index, score);
    d->last = index;
    if (d->lessons != NULL && d->link.greeted)
        tell_lessons(d);
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
    const uint32_t host = d->link.host;
    sk_link_receive(&d->link, byte);
    if (d->lessons != NULL && d->link.host != host)
        d->lessons->told = 0u;
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
