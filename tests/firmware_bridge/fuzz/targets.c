/* What may come to a device from outside, as one function of bytes for each way in. The first byte says which way:
 *     0  bytes of the line, as they are
 *     1  messages: type, length, payload, again and again, each in a packet whose checksum is right
 *     2  a head of any content, announced and committed as it should be, and windows scored with it
 *     3  a block of ADPCM
 *     4  examples to learn
 * A fault is what the sanitizers say, or an assertion here. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "soundkeep/sk_bytes.h"
#include "soundkeep/sk_link.h"
#include "soundkeep/sk_update.h"

#define DIM 8u
#define SESSION 0x534B0001u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct device {
    sk_link link;
    sk_head head;
    float storage[SK_HEAD_STORAGE(DIM, 2048u) / 4u];
    uint8_t out[4096];
} device;

static const uint8_t ear[8] = {1, 2, 3, 4, 5, 6, 7, 8};
static uint32_t n_heard;

static void heard(void *user, const char *label, uint32_t n, float score, uint8_t begins)
{
    uint32_t i;
    (void)user;
    (void)score;
    (void)begins;
    for (i = 0u; i < n; i++)
        n_heard += (uint32_t)(label[i] != 0); /* reads what it was given */
}

static void open_device(device *d)
{
    static const sk_about about = {SESSION, 16000u, "fuzzed", ear, ear, 320u,
                                   SK_FORMAT_PCM16 | SK_FORMAT_ADPCM | SK_FORMAT_LOG_MEL};
    const int wrong = sk_head_init(&d->head, d->storage, sizeof d->storage, ear, DIM);
    assert(wrong == 0);
    sk_link_init(&d->link, &about, d->out, sizeof d->out, &d->head);
    d->link.heard = heard;
}

/* Whatever the device puts out are whole packets. */
static void drain(device *d)
{
    static sk_decoder decoder;
    uint8_t bytes[512];
    uint32_t n, i;
    sk_packet packet;
    sk_decoder_init(&decoder);
    while ((n = sk_ring_get(&d->link.out, bytes, sizeof bytes)) != 0u)
        for (i = 0u; i < n; i++)
            (void)sk_decode(&decoder, bytes[i], &packet);
    assert(decoder.n_crc == 0u && decoder.n_malformed == 0u && decoder.n_oversized == 0u);
}

static void use_head(device *d, const uint8_t *data, size_t size)
{
    float x[DIM], scores[SK_HEAD_MAX_CLASSES];
    uint8_t n, i;
    memset(x, 0, sizeof x);
    memcpy(x, data, size < sizeof x ? size : sizeof x);
    (void)sk_head_flip(&d->head);
    n = sk_head_scores(&d->head, x, scores);
    assert(n <= sk_head_n_classes(&d->head));
    if (n != 0u) {
        const int16_t answer = sk_head_decide(&d->head, scores);
        assert(answer >= -1 && answer < (int16_t)n);
        for (i = 0u; i < n; i++)
            assert(strlen(sk_head_name(&d->head, i)) < SK_HEAD_NAME_BYTES);
    }
}

static void line(const uint8_t *data, size_t size)
{
    static device d;
    size_t i;
    open_device(&d);
    for (i = 0u; i < size; i++)
        sk_link_receive(&d.link, data[0] % 8u == 1u && data[i] == 0u ? 1u : data[i]); /* now and then without an end */
    drain(&d);
}

static void messages(const uint8_t *data, size_t size)
{
    static device d;
    static uint8_t packet[SK_MAX_PACKET];
    uint16_t seq = 0u;
    uint8_t status;
    open_device(&d);
    status = sk_head_begin(&d.head, 7u, (uint16_t)DIM, 6u, 6u, SK_HEAD_BYTES(DIM, 6u, 6u), 0u, ear);
    assert(status == SK_STATUS_DONE);
    while (size >= 3u) {
        const uint8_t type = data[0] & 31u, flags = data[0] >> 5;
        uint32_t n = data[1] * (flags & 1u ? 4u : 1u), i, whole;
        uint8_t payload[SK_MAX_PAYLOAD];
        sk_encoder e;
        data += 2;
        size -= 2u;
        if (n > size)
            n = (uint32_t)size;
        memcpy(payload, data, n);
        if (!(flags & 2u) && n >= 4u)
            sk_put32(payload, SESSION);
        if (type == SK_HEAD_CHUNK && n >= SK_HEAD_CHUNK_FIXED) { /* of the head that is on its way */
            sk_put32(payload + SK_HEAD_CHUNK_VERSION, 7u);
            sk_put32(payload + SK_HEAD_CHUNK_OFFSET, (uint32_t)payload[8] * SK_HEAD_GRAIN);
        }
        sk_encode_begin(&e, packet, sizeof packet, type, flags, flags & 4u ? seq : seq++, n);
        sk_encode_bytes(&e, payload, n);
        whole = sk_encode_end(&e);
        assert(whole != 0u);
        for (i = 0u; i < whole; i++)
            sk_link_receive(&d.link, packet[i]);
        data += n;
        size -= n;
        if (type > 27u) {
            int16_t pcm[320];
            memset(pcm, (int)type, sizeof pcm);
            sk_link_sound(&d.link, pcm, 320u);
            sk_link_frames(&d.link, d.link.sample, pcm, 64u, 4u);
        }
        use_head(&d, payload, n);
        if (type & 1u)
            drain(&d);
    }
    drain(&d);
}

static void head(const uint8_t *data, size_t size)
{
    static device d;
    static uint8_t bytes[2048];
    uint32_t n_classes, n_rivals, n, i, at, crc;
    uint8_t status;
    if (size < 8u)
        return;
    open_device(&d);
    n_classes = data[0] % 8u;
    n_rivals = data[1] % 8u;
    n = SK_HEAD_BYTES(DIM, n_classes, n_rivals);
    for (i = 0u; i < n; i++)
        bytes[i] = data[i % size];
    if (!(data[2] & 1u)) { /* what must be right for anything else to be looked at */
        memcpy(bytes, "SKH1", 4u);
        sk_put32(bytes + 4, 7u);
        sk_put16(bytes + 8, (uint16_t)DIM);
        bytes[10] = (uint8_t)n_classes;
        bytes[11] = (uint8_t)n_rivals;
        sk_put32(bytes + 12, n);
        memcpy(bytes + 16, ear, sizeof ear);
        sk_put32(bytes + 32, data[3] & 1u ? SK_HEAD_NONE : data[3] % 9u);
        for (i = 0u; i < n_classes && !(data[4] & 1u); i++)
            bytes[SK_HEAD_FIXED + (i + 1u) * (4u * DIM + SK_HEAD_CLASS_EXTRA) - 1u] = 0u;
        if (data[2] & 2u) /* numbers that are numbers */
            for (at = SK_HEAD_FIXED; at + 4u <= n; at += 4u)
                bytes[at + 3u] &= 0xBFu;
    }
    crc = sk_crc32(0u, bytes, n);
    status = sk_head_begin(&d.head, 7u, (uint16_t)DIM, (uint8_t)n_classes, (uint8_t)n_rivals, n, crc, ear);
    assert(status == SK_STATUS_DONE);
    for (at = 0u; at < n; at += 448u)
        (void)sk_head_chunk(&d.head, 7u, at, bytes + at, n - at < 448u ? n - at : 448u);
    status = sk_head_commit(&d.head, 7u);
    use_head(&d, data, size);
    assert((sk_head_version(&d.head) == 7u) == (status == SK_STATUS_DONE));
    use_head(&d, data + size / 2u, size - size / 2u);
    (void)sk_head_load(&d.head, data, (uint32_t)size);
    use_head(&d, data, size);
}

static void adpcm(const uint8_t *data, size_t size)
{
    static int16_t pcm[1200];
    static uint8_t block[SK_ADPCM_BYTES(1200u)];
    int32_t n = sk_adpcm_decode(data, (uint32_t)size, pcm, 1000u);
    sk_adpcm state = {0, 0};
    assert(n >= -1 && n <= 1000);
    if (n > 0) {
        const uint32_t bytes = sk_adpcm_encode(&state, pcm, (uint32_t)n, block);
        assert(sk_adpcm_decode(block, bytes, pcm, 1200u) == n);
    }
}

static void lessons(const uint8_t *data, size_t size)
{
    static float storage[SK_UPDATE_STORAGE(DIM, 4u)];
    sk_update update;
    float x[DIM], scores[4];
    if (size < 1u || sk_update_init(&update, storage, sizeof storage / sizeof *storage, DIM, 4u, 1.0f) != 0)
        return;
    while (size >= sizeof x + 1u) {
        memcpy(x, data + 1, sizeof x);
        (void)sk_update_learn(&update, x, data[0] % 6u);
        data += sizeof x + 1u;
        size -= sizeof x + 1u;
    }
    memset(x, 0, sizeof x);
    x[0] = 1.0f;
    sk_update_scores(&update, x, scores);
    assert(scores[0] == scores[0] && scores[3] == scores[3]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0u)
        return 0;
    switch (data[0] % 5u) {
    case 0: line(data + 1, size - 1u); break;
    case 1: messages(data + 1, size - 1u); break;
    case 2: head(data + 1, size - 1u); break;
    case 3: adpcm(data + 1, size - 1u); break;
    default: lessons(data + 1, size - 1u); break;
    }
    return 0;
}
