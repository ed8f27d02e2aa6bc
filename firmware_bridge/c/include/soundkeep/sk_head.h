/* The head: what turns an embedding into scores of taught sounds. It lies in RAM in two banks, so that it can be
 * replaced over the link: the new one is taken in beside the one in use, checked as a whole, and the two change over at
 * a window's boundary (sk_head_flip). So every window is scored by one head, and an interrupted update changes nothing.
 *
 * A bank holds, little-endian (firmware_bridge/heads.py writes it), dim = d:
 *   SK_HEAD_FIXED bytes: magic "SKH1", version u32, dim u16, n_classes u8, n_rivals u8, n_bytes u32, ear 8 bytes,
 *     rival_share f32, low_step f32 (threshold less low threshold), ignored u32 (rival that is the ignored sounds,
 *     SK_HEAD_NONE: none), ignored_gain f32, ignored_bias f32, zeros;
 *   per class: weights d f32, then SK_ROW_... below: offset, own, threshold, gain, bias, rest, log_count f32,
 *     admitted u32 (bit j: rival j may speak against the class), name (UTF-8, ends with a zero byte);
 *   per rival: weights d f32, offset f32.
 * With x the embedding at unit length on the grid of 2^-14, as the edge keeps it:
 *   z_c = w_c.x - offset_c,   s_c = z_c - log(rest_c + sum over admitted rivals of exp z_j) + log_count_c - own_c,
 * and s_c is at most 0 where the ignored sounds explain the window better than a class much like them
 * (docs/how_it_decides.md). rest_c stands for the rivals that did not fit the bank.
 *
 * All functions are to be called from one thread (the main loop); an interrupt only fills rings. */
#ifndef SOUNDKEEP_SK_HEAD_H
#define SOUNDKEEP_SK_HEAD_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SK_HEAD_FIXED 64u
#define SK_HEAD_NAME_BYTES 24u
#define SK_HEAD_CLASS_EXTRA (32u + SK_HEAD_NAME_BYTES) /* bytes of a class besides its weights */
#define SK_HEAD_RIVAL_EXTRA 4u
#define SK_HEAD_MAX_CLASSES 64u
#define SK_HEAD_MAX_RIVALS 32u
#define SK_HEAD_MAX_DIM 1024u
#define SK_HEAD_GRAIN 64u                             /* chunks begin at multiples of this */
#define SK_HEAD_MAX_BYTES (2048u * SK_HEAD_GRAIN)     /* 128 KiB: what the map of arrived grains can hold */
#define SK_HEAD_NONE 0xFFFFFFFFu

/* Bytes of a head, and of the storage for sk_head_init (two banks and one embedding). */
#define SK_HEAD_BYTES(dim, n_classes, n_rivals)                                                                        \
    (SK_HEAD_FIXED + (n_classes) * (4u * (dim) + SK_HEAD_CLASS_EXTRA) + (n_rivals) * (4u * (dim) + SK_HEAD_RIVAL_EXTRA))
#define SK_HEAD_STORAGE(dim, bank_bytes) (4u * (dim) + 2u * (bank_bytes))

enum { SK_HEAD_EMPTY = 0, SK_HEAD_FILLING = 1, SK_HEAD_PENDING = 2 };

typedef struct sk_head {
    float *x;              /* scratch: the embedding on the grid, dim numbers */
    float *bank[2];        /* bank_bytes each */
    uint32_t bank_bytes;   /* a multiple of 64 */
    uint32_t n_flips;
    uint16_t dim;
    uint8_t ear[8];        /* first bytes of the hash of the embedding space; zeros: any */
    uint8_t active;        /* 0 or 1 */
    uint8_t used;          /* whether the active bank holds a head */
    uint8_t other;         /* of the other bank: SK_HEAD_EMPTY, _FILLING, _PENDING */
    /* the update under way */
    uint32_t next_version, next_bytes, next_crc;
    uint16_t next_dim;
    uint8_t next_classes, next_rivals;
    uint8_t arrived[SK_HEAD_MAX_BYTES / SK_HEAD_GRAIN / 8u];
} sk_head;

/* storage: storage_bytes bytes, float aligned, see SK_HEAD_STORAGE. ear: 8 bytes. Returns 0, or -1 when it is too
 * small for an empty head. */
int sk_head_init(sk_head *head, float *storage, uint32_t storage_bytes, const uint8_t *ear, uint16_t dim);

/* Use a head that is built in, at once. Returns a SK_STATUS_... */
uint8_t sk_head_load(sk_head *head, const uint8_t *data, uint32_t n_bytes);

/* Take in a head over the link. begin: the payload of a HeadBegin less its session. Each returns a SK_STATUS_... */
uint8_t sk_head_begin(sk_head *head, uint32_t version, uint16_t dim, uint8_t n_classes, uint8_t n_rivals,
                      uint32_t n_bytes, uint32_t crc, const uint8_t *ear);
uint8_t sk_head_chunk(sk_head *head, uint32_t version, uint32_t offset, const uint8_t *data, uint32_t n_bytes);
uint8_t sk_head_commit(sk_head *head, uint32_t version);

/* At a window's boundary: change over when a checked head waits. Returns 1 when it did. */
int sk_head_flip(sk_head *head);

/* Of the head in use; 0 without one. */
uint32_t sk_head_version(const sk_head *head);
uint8_t sk_head_n_classes(const sk_head *head);
uint8_t sk_head_n_rivals(const sk_head *head);
const char *sk_head_name(const sk_head *head, uint8_t index);
float sk_head_threshold(const sk_head *head, uint8_t index);

/* embedding: dim numbers as they leave the backbone, of any length. scores: room for SK_HEAD_MAX_CLASSES; of the head's
 * classes, in deviations of the background. Returns their number; 0 without a head, or for an embedding of zeros or of
 * what is no number. */
uint8_t sk_head_scores(const sk_head *head, const float *embedding, float *scores);

/* The class whose score is furthest above its threshold, -1 when none reaches it: an unknown sound or background. A
 * class needs rival_share of the largest score, too. scores: as sk_head_scores left them. */
int16_t sk_head_decide(const sk_head *head, const float *scores);

#ifdef __cplusplus
}
#endif

#endif
