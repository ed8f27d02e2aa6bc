/* IMA-ADPCM, equal to the bit to firmware_bridge/adpcm.py: a block of n samples has 4 + (n + 1) / 2 bytes and starts
 * with its own predictor and index, so a lost block spoils no other. */
#ifndef SOUNDKEEP_SK_ADPCM_H
#define SOUNDKEEP_SK_ADPCM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SK_ADPCM_BYTES(n) (4u + ((n) + 1u) / 2u)

typedef struct sk_adpcm {
    int16_t predictor;
    uint8_t index; /* 0 to 88 */
} sk_adpcm;

/* Encodes n samples into SK_ADPCM_BYTES(n) bytes; the state goes on to the next block. Returns the bytes. */
uint32_t sk_adpcm_encode(sk_adpcm *state, const int16_t *pcm, uint32_t n, uint8_t *out);

/* Decodes a block to at most room samples. Returns their number, -1 when it is no block or does not fit. */
int32_t sk_adpcm_decode(const uint8_t *block, uint32_t n_bytes, int16_t *pcm, uint32_t room);

#ifdef __cplusplus
}
#endif

#endif
