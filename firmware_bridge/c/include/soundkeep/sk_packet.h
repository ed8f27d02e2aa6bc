/* Packets on the line: 0x00 | COBS(type, flags, sequence, length, payload, CRC-32) | 0x00. An encoder that takes the
 * payload in pieces and a decoder that takes bytes one by one; neither ever writes outside what it was given. After
 * any damage the next zero is where the next packet begins. */
#ifndef SOUNDKEEP_SK_PACKET_H
#define SOUNDKEEP_SK_PACKET_H

#include <stdint.h>

#include "soundkeep/sk_protocol.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SK_MAX_BODY (SK_PACKET_HEAD + SK_MAX_PAYLOAD + SK_CRC_BYTES)
#define SK_MAX_STUFFED (SK_MAX_BODY + SK_MAX_BODY / 254u + 1u) /* between the zeros */
#define SK_MAX_PACKET (SK_MAX_STUFFED + 2u)                    /* with both zeros */

/* CRC-32 of zlib. crc: 0 to begin with, or the result so far. */
uint32_t sk_crc32(uint32_t crc, const uint8_t *data, uint32_t n);

typedef struct sk_encoder {
    uint8_t *out;
    uint32_t room, n;   /* bytes */
    uint32_t code_at;   /* where the length of the block under way will stand */
    uint32_t crc;
    uint32_t left;      /* payload bytes that are still to come */
    uint8_t code;
    uint8_t failed;
} sk_encoder;

/* out: room bytes, SK_MAX_PACKET are always enough. n_payload: all pieces together. */
void sk_encode_begin(sk_encoder *e, uint8_t *out, uint32_t room, uint8_t type, uint8_t flags, uint16_t seq,
                     uint32_t n_payload);
void sk_encode_bytes(sk_encoder *e, const uint8_t *data, uint32_t n);
/* Returns the bytes in out; 0 when they found no room, or the pieces were not n_payload bytes. */
uint32_t sk_encode_end(sk_encoder *e);

typedef struct sk_packet {
    const uint8_t *payload; /* valid until the next byte is pushed */
    uint16_t seq, n_payload;
    uint8_t type, flags;
} sk_packet;

typedef struct sk_decoder {
    uint32_t n_good, n_crc, n_malformed, n_oversized; /* as in firmware_bridge/packet.py */
    uint16_t n, n_stuffed;
    uint8_t left;      /* bytes of the COBS block under way that are still to come */
    uint8_t zero_next; /* whether a zero stands between it and the next one */
    uint8_t too_long;
    uint8_t body[SK_MAX_STUFFED]; /* the first zero of COBS is not stored */
} sk_decoder;

void sk_decoder_init(sk_decoder *d);
/* Takes one byte; returns 1 when it completes a packet, which is then in *packet. */
int sk_decode(sk_decoder *d, uint8_t byte, sk_packet *packet);

#ifdef __cplusplus
}
#endif

#endif
