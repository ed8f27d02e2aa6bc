/* Little-endian numbers in bytes of any alignment. Floats are IEEE 754 binary32. */
#ifndef SOUNDKEEP_SK_BYTES_H
#define SOUNDKEEP_SK_BYTES_H

#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && defined(__ORDER_LITTLE_ENDIAN__)
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "soundkeep needs a little-endian processor: heads are used in RAM as they come over the link"
#endif
#endif

typedef char sk_float_has_four_bytes[sizeof(float) == 4 ? 1 : -1];

static inline uint16_t sk_get16(const uint8_t *p) { return (uint16_t)(p[0] | (uint16_t)(p[1] << 8)); }

static inline uint32_t sk_get32(const uint8_t *p) {
    return (uint32_t)p[0] | ((uint32_t)p[1] << 8) | ((uint32_t)p[2] << 16) | ((uint32_t)p[3] << 24);
}

static inline float sk_getf(const uint8_t *p) {
    uint32_t bits = sk_get32(p);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline void sk_put16(uint8_t *p, uint16_t value) {
    p[0] = (uint8_t)(value & 0xFFu);
    p[1] = (uint8_t)(value >> 8);
}

static inline void sk_put32(uint8_t *p, uint32_t value) {
    p[0] = (uint8_t)(value & 0xFFu);
    p[1] = (uint8_t)((value >> 8) & 0xFFu);
    p[2] = (uint8_t)((value >> 16) & 0xFFu);
    p[3] = (uint8_t)(value >> 24);
}

static inline void sk_putf(uint8_t *p, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    sk_put32(p, bits);
}

#endif
