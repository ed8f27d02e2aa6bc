/* A recogniser: the ear that was built in, and the head that may be replaced over the link.
 *
 *     static uint64_t memory[(SK_MEMORY(SK_MODEL_ARENA, SK_MODEL_DIM, SK_MODEL_BANK) + 7u) / 8u];
 *     static sk_ctx ctx;
 *     sk_init(&ctx, memory, sizeof memory);
 *     n = sk_classify(&ctx, pcm, scores);
 *     best = sk_head_decide(&ctx.head, scores);
 */
#ifndef SOUNDKEEP_SK_H
#define SOUNDKEEP_SK_H

#include "soundkeep/sk_ear.h"
#include "soundkeep/sk_head.h"

/* Bytes for sk_init: the ear's arena, and a head's two banks. bank_bytes: see SK_HEAD_BYTES; a multiple of 64. */
#define SK_MEMORY(arena_bytes, dim, bank_bytes) ((arena_bytes) + SK_HEAD_STORAGE(dim, bank_bytes))

/* Of the context; the rest of what is known lies in the memory that sk_init was given. */
typedef struct sk_ctx {
    sk_ear ear;
    sk_head head;
} sk_ctx;

/* What the generated sk_model.c defines. */
extern const sk_model *const sk_model_default;
extern const uint8_t sk_model_ear[8];
extern const uint8_t sk_model_head[];
extern const uint32_t sk_model_head_bytes;

#define SK_HEAD_REFUSED (-3)

/* arena: size bytes at a multiple of SK_ARENA_ALIGNMENT, for as long as the context is used. What the ear does not need
 * of it becomes the banks of the head. Returns SK_OK, or SK_ARENA_TOO_SMALL, SK_ARENA_MISALIGNED, SK_HEAD_REFUSED: the
 * head that is built in does not fit a bank. */
int sk_init(sk_ctx *ctx, void *arena, size_t size);

/* Scores of one window by the head in use; a head that waits is changed over to first. pcm: as many samples as the
 * model's window. scores: SK_HEAD_MAX_CLASSES numbers. Returns how many classes there are, 0 without a head. */
uint8_t sk_classify(sk_ctx *ctx, const int16_t *pcm, float *scores);

/* The last window's output of the network, dim numbers, until the next sk_classify. */
const float *sk_embedding(const sk_ctx *ctx);

#endif
