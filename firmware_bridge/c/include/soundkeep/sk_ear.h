/* The ear: a window of sound in, an embedding out, in memory that the caller gives. No head, no link. */
#ifndef SOUNDKEEP_SK_EAR_H
#define SOUNDKEEP_SK_EAR_H

#include <stddef.h>

#include "soundkeep/sk_plan.h"

#define SK_OK 0
#define SK_ARENA_TOO_SMALL (-1)
#define SK_ARENA_MISALIGNED (-2)

typedef struct sk_ear {
    const sk_model *model;
    unsigned char *arena;
} sk_ear;

/* arena: at least model->arena_bytes bytes at a multiple of SK_ARENA_ALIGNMENT, used by nobody else while a window is
 * under way. Returns SK_OK or what is wrong with it. */
int sk_ear_init(sk_ear *ear, const sk_model *model, void *arena, size_t size);

/* The network's output for one window. pcm: window_length samples. embedding: dim numbers. */
void sk_ear_embed(const sk_ear *ear, const int16_t *pcm, float *embedding);

/* Scale an embedding to unit length and round it to the grid: whole numbers of 1 / scale, halves to the even one.
 * An embedding of zeros stays zeros. */
void sk_to_grid(const float *embedding, uint32_t dim, float scale, int16_t *grid);

#endif
