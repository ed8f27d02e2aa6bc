/* A whole device: blocks of sound from a microphone go out over the link, and into windows that are judged here. What a
 * port adds is a clock, a microphone and a serial line (see ports/firmware/main.c, 60 lines).
 *
 *     sk_device_init(&device, &about, memory, sizeof memory, window, out, sizeof out);
 *     for (;;) {
 *         while (next byte of the line) sk_device_receive(&device, byte);
 *         if (a block is there) sk_device_hear(&device, block, n, samples behind it);
 *         send what is in device.link.out
 *     }
 */
#ifndef SOUNDKEEP_SK_DEVICE_H
#define SOUNDKEEP_SK_DEVICE_H

#include "soundkeep/sk.h"
#include "soundkeep/sk_link.h"
#include "soundkeep/sk_mel.h"

typedef struct sk_device {
    sk_ctx ctx;
    sk_link link;
    sk_mel mel;
    int16_t *window;      /* the window under way */
    uint32_t n_window;    /* its samples so far */
    int16_t last;         /* what was told last: index of a class, -1 */
    uint8_t mels;         /* whether the front end is small enough for sk_mel */
    int16_t logs[SK_MEL_MAX_BANDS];
    float scores[SK_HEAD_MAX_CLASSES];
} sk_device;

/* about: its ear and front_end are filled in here. memory: see SK_MEMORY. window: SK_MODEL_WINDOW samples. out: see
 * sk_link_init. Returns what sk_init does. */
int sk_device_init(sk_device *device, const sk_about *about, void *memory, size_t n_memory, int16_t *window,
                   uint8_t *out, uint32_t n_out);

void sk_device_receive(sk_device *device, uint8_t byte);

/* n samples from the microphone, at most SK_MAX_BLOCK: sent, if a host asked; each window that they complete is judged,
 * which takes the time of sk_classify. waiting: samples that the microphone has ready behind these. With a hop or more of
 * them the window is passed over instead: a processor that is too slow for every window judges as many as it can, and no
 * sound is lost. */
void sk_device_hear(sk_device *device, const int16_t *pcm, uint32_t n, uint32_t waiting);

/* n samples were lost: the counter goes on, and no window spans them. */
void sk_device_lost(sk_device *device, uint32_t n);

#endif
