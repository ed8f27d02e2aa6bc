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
#include "soundkeep/sk_update.h"

#define SK_DEVICE_LESSONS 16u /* windows taught here that are kept for a host: the last ones */
#define SK_DEVICE_LEAST 0.5f  /* score of sk_update from which a window is a class that was learnt here */

/* Windows that were taught to the device itself, for whom that is wanted. A host learns them too; its next head takes the
 * place of what was learnt here. */
typedef struct sk_lessons {
    sk_update update;
    int16_t *grids;      /* SK_DEVICE_LESSONS of them, the last ones */
    uint32_t samples[SK_DEVICE_LESSONS], versions[SK_DEVICE_LESSONS]; /* of the window, and of the head it was taught to */
    char names[SK_DEVICE_LESSONS][SK_HEAD_NAME_BYTES];
    uint8_t classes[SK_DEVICE_LESSONS];
    uint32_t n, told;    /* taught since the start; told to the host that is there */
    uint32_t n_flips;    /* of the head, when it was looked at last */
    uint8_t asked;       /* whether the next window is to be learnt */
    uint8_t index;       /* as what */
    float scores[SK_UPDATE_MAX_CLASSES];
    float x[SK_UPDATE_MAX_DIM];
    int16_t grid[SK_UPDATE_MAX_DIM];
} sk_lessons;

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
    sk_lessons *lessons;  /* NULL: it cannot be taught by itself */
} sk_device;

/* about: its ear and front_end are filled in here. memory: see SK_MEMORY. window: SK_MODEL_WINDOW samples. out: see
 * sk_link_init. Returns what sk_init does. */
int sk_device_init(sk_device *device, const sk_about *about, void *memory, size_t n_memory, int16_t *window,
                   uint8_t *out, uint32_t n_out);

/* From now on the device may be taught by itself (the message Teach, or sk_device_teach). lessons, storage, grids: memory
 * for that, see SK_UPDATE_STORAGE (n numbers) and SK_DEVICE_LESSONS * SK_MODEL_DIM. ridge: windows. Returns 0, or -1 for an
 * ear with more than SK_UPDATE_MAX_DIM numbers, or too little memory. */
int sk_device_lets_teach(sk_device *device, sk_lessons *lessons, float *storage, uint32_t n, int16_t *grids,
                         uint8_t n_classes, float ridge);

/* Learn the next window as class index of the head in use, SK_UPDATE_NONE: as none of them. Without a head, index is any
 * that sk_device_lets_teach has room for. Returns a SK_STATUS_... */
uint8_t sk_device_teach(sk_device *device, uint8_t index);

void sk_device_receive(sk_device *device, uint8_t byte);

/* n samples from the microphone, at most SK_MAX_BLOCK: sent, if a host asked; each window that they complete is judged,
 * which takes the time of sk_classify. waiting: samples that the microphone has ready behind these. With a hop or more of
 * them the window is passed over instead: a processor that is too slow for every window judges as many as it can, and no
 * sound is lost. */
void sk_device_hear(sk_device *device, const int16_t *pcm, uint32_t n, uint32_t waiting);

/* n samples were lost: the counter goes on, and no window spans them. */
void sk_device_lost(sk_device *device, uint32_t n);

#endif
