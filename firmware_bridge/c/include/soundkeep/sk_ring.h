/* Bytes from one writer to one reader, one of which may be an interrupt. Whoever writes moves head, whoever reads moves
 * tail; neither waits. On a processor with several cores define SK_RING_BARRIER as its memory barrier. */
#ifndef SOUNDKEEP_SK_RING_H
#define SOUNDKEEP_SK_RING_H

#include <stdint.h>

#ifndef SK_RING_BARRIER
#if defined(__GNUC__)
#define SK_RING_BARRIER() __asm__ volatile("" ::: "memory")
#else
#define SK_RING_BARRIER() ((void)0)
#endif
#endif

typedef struct sk_ring {
    uint8_t *bytes;
    uint32_t size; /* a power of two */
    volatile uint32_t head, tail;
} sk_ring;

/* size: of bytes; the largest power of two in it is used. */
static inline void sk_ring_init(sk_ring *r, uint8_t *bytes, uint32_t size) {
    r->bytes = bytes;
    r->size = 1u;
    while (r->size <= size / 2u)
        r->size *= 2u;
    r->head = r->tail = 0u;
}

static inline uint32_t sk_ring_used(const sk_ring *r) { return r->head - r->tail; }

static inline uint32_t sk_ring_free(const sk_ring *r) { return r->size - sk_ring_used(r); }

/* Returns 1, or 0 when n bytes find no room: then none is taken. */
static inline int sk_ring_put(sk_ring *r, const uint8_t *data, uint32_t n) {
    uint32_t i, head = r->head;
    if (n > sk_ring_free(r))
        return 0;
    for (i = 0u; i < n; i++)
        r->bytes[(head + i) & (r->size - 1u)] = data[i];
    SK_RING_BARRIER();
    r->head = head + n;
    return 1;
}

/* Returns how many bytes were taken, at most n. */
static inline uint32_t sk_ring_get(sk_ring *r, uint8_t *data, uint32_t n) {
    uint32_t i, tail = r->tail, there = sk_ring_used(r);
    if (n > there)
        n = there;
    SK_RING_BARRIER();
    for (i = 0u; i < n; i++)
        data[i] = r->bytes[(tail + i) & (r->size - 1u)];
    SK_RING_BARRIER();
    r->tail = tail + n;
    return n;
}

#endif
