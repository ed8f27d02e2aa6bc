/* See sk_packet.h. */
#include "soundkeep/sk_packet.h"

#include "soundkeep/sk_bytes.h"

uint32_t sk_crc32(uint32_t crc, const uint8_t *data, uint32_t n) {
    static const uint32_t table[16] = {
        0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u, 0x4DB26158u, 0x5005713Cu,
        0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu, 0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu};
    uint32_t i;
    crc = ~crc;
    for (i = 0; i < n; i++) {
        crc ^= data[i];
        crc = (crc >> 4) ^ table[crc & 15u];
        crc = (crc >> 4) ^ table[crc & 15u];
    }
    return ~crc;
}

static void put(sk_encoder *e, uint8_t byte) {
    if (e->n < e->room)
        e->out[e->n] = byte;
    else
        e->failed = 1;
    e->n++;
}

/* Ends the block under way and opens the next. */
static void close_block(sk_encoder *e) {
    if (e->code_at < e->room)
        e->out[e->code_at] = e->code;
    e->code_at = e->n;
    e->code = 1;
    put(e, 0);
}

/* A block of 254 bytes stands for itself; the next one opens only when a byte follows. */
static void stuff(sk_encoder *e, uint8_t byte) {
    if (e->code == 255)
        close_block(e);
    if (byte == 0) {
        close_block(e);
        return;
    }
    put(e, byte);
    e->code++;
}

static void stuff_all(sk_encoder *e, const uint8_t *data, uint32_t n) {
    uint32_t i;
    for (i = 0; i < n; i++)
        stuff(e, data[i]);
}

void sk_encode_begin(sk_encoder *e, uint8_t *out, uint32_t room, uint8_t type, uint8_t flags, uint16_t seq,
                     uint32_t n_payload) {
    uint8_t head[SK_PACKET_HEAD];
    e->out = out;
    e->room = room;
    e->n = 0;
    e->failed = n_payload > SK_MAX_PAYLOAD;
    e->left = e->failed ? 0 : n_payload;
    put(e, 0);
    e->code_at = e->n;
    e->code = 1;
    put(e, 0);
    head[0] = type;
    head[1] = flags;
    sk_put16(head + 2, seq);
    sk_put16(head + 4, (uint16_t)e->left);
    e->crc = sk_crc32(0, head, sizeof head);
    stuff_all(e, head, sizeof head);
}

void sk_encode_bytes(sk_encoder *e, const uint8_t *data, uint32_t n) {
    if (e->failed || n > e->left) {
        e->failed = 1;
        return;
    }
    e->left -= n;
    e->crc = sk_crc32(e->crc, data, n);
    stuff_all(e, data, n);
}

uint32_t sk_encode_end(sk_encoder *e) {
    uint8_t crc[SK_CRC_BYTES];
    if (e->failed || e->left)
        return 0;
    sk_put32(crc, e->crc);
    stuff_all(e, crc, sizeof crc);
    if (e->code_at < e->room)
        e->out[e->code_at] = e->code;
    put(e, 0);
    return e->failed ? 0 : e->n;
}

static void start_anew(sk_decoder *d) {
    d->n = d->n_stuffed = 0;
    d->left = d->zero_next = d->too_long = 0;
}

void sk_decoder_init(sk_decoder *d) {
    d->n_good = d->n_crc = d->n_malformed = d->n_oversized = 0;
    start_anew(d);
}

static int finish(sk_decoder *d, sk_packet *packet) {
    uint32_t n = d->n;
    if (d->too_long) {
        d->n_oversized++;
        return 0;
    }
    if (d->n_stuffed == 0)
        return 0; /* nothing between two zeros */
    if (d->left || n < SK_PACKET_HEAD + SK_CRC_BYTES) {
        d->n_malformed++;
        return 0;
    }
    n -= SK_CRC_BYTES;
    if (sk_crc32(0, d->body, n) != sk_get32(d->body + n)) {
        d->n_crc++;
        return 0;
    }
    n -= SK_PACKET_HEAD;
    if (sk_get16(d->body + 4) != n || n > SK_MAX_PAYLOAD) {
        d->n_malformed++;
        return 0;
    }
    d->n_good++;
    packet->type = d->body[0];
    packet->flags = d->body[1];
    packet->seq = sk_get16(d->body + 2);
    packet->n_payload = (uint16_t)n;
    packet->payload = d->body + SK_PACKET_HEAD;
    return 1;
}

int sk_decode(sk_decoder *d, uint8_t byte, sk_packet *packet) {
    int whole;
    if (byte == 0) {
        whole = finish(d, packet);
        start_anew(d);
        return whole;
    }
    if (d->too_long)
        return 0;
    if (d->n_stuffed >= SK_MAX_STUFFED) {
        d->too_long = 1;
        return 0;
    }
    d->n_stuffed++;
    if (d->left) {
        d->body[d->n++] = byte;
        d->left--;
        return 0;
    }
    if (d->zero_next)
        d->body[d->n++] = 0;
    d->left = (uint8_t)(byte - 1u);
    d->zero_next = byte != 255u;
    return 0;
}
