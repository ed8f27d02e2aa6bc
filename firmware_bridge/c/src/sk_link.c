/* See sk_link.h. */
#include "soundkeep/sk_link.h"

#include "soundkeep/sk_bytes.h"

/* Sends a payload of two pieces; returns 1, or 0 when it found no room. */
static int send(sk_link *l, uint8_t type, const uint8_t *head, uint32_t n_head, const uint8_t *tail, uint32_t n_tail,
                uint32_t reserve) {
    sk_encoder e;
    uint32_t n;
    sk_encode_begin(&e, l->scratch, sizeof l->scratch, type, 0, l->seq, n_head + n_tail);
    sk_encode_bytes(&e, head, n_head);
    sk_encode_bytes(&e, tail, n_tail);
    n = sk_encode_end(&e);
    l->seq++;
    if (n == 0u || n + reserve > sk_ring_free(&l->out))
        return 0;
    return sk_ring_put(&l->out, l->scratch, n);
}

static void answer(sk_link *l, uint8_t type, const uint8_t *payload, uint32_t n, const uint8_t *tail, uint32_t n_tail) {
    if (!send(l, type, payload, n, tail, n_tail, 0u))
        l->n_unsent++;
}

static uint32_t length_of(const char *text, uint32_t most) {
    uint32_t n = 0u;
    while (n < most && text[n] != '\0')
        n++;
    return n;
}

void sk_link_init(sk_link *l, const sk_about *about, uint8_t *out, uint32_t n_out, sk_head *head) {
    memset(l, 0, sizeof *l);
    l->about = *about;
    l->head = head;
    sk_decoder_init(&l->decoder);
    sk_ring_init(&l->out, out, n_out);
}

void sk_link_hello(sk_link *l) {
    uint8_t p[SK_DEVICE_HELLO_FIXED];
    const char *name = l->about.name;
    memset(p, 0, sizeof p);
    p[SK_DEVICE_HELLO_VERSION] = SK_PROTOCOL_VERSION;
    sk_put32(p + SK_DEVICE_HELLO_SESSION, l->about.session);
    sk_put32(p + SK_DEVICE_HELLO_SAMPLE_RATE, l->about.sample_rate);
    p[SK_DEVICE_HELLO_FORMATS] = l->about.formats;
    p[SK_DEVICE_HELLO_ABILITIES] = (uint8_t)((l->head ? SK_CAN_HEAD : 0u) | (l->teach ? SK_CAN_TEACH : 0u));
    sk_put16(p + SK_DEVICE_HELLO_BLOCK, l->about.block);
    if (l->head) {
        sk_put32(p + SK_DEVICE_HELLO_HEAD_VERSION, sk_head_version(l->head));
        sk_put32(p + SK_DEVICE_HELLO_BANK_BYTES, l->head->bank_bytes);
    }
    if (l->about.ear)
        memcpy(p + SK_DEVICE_HELLO_EAR, l->about.ear, 8u);
    if (l->about.front_end)
        memcpy(p + SK_DEVICE_HELLO_FRONT_END, l->about.front_end, 8u);
    answer(l, SK_DEVICE_HELLO, p, sizeof p, (const uint8_t *)name, name ? length_of(name, SK_MAX_NAME) : 0u);
}

static void tell_status(sk_link *l) {
    uint8_t p[SK_STATUS_FIXED];
    const sk_decoder *d = &l->decoder;
    sk_put32(p + SK_STATUS_N_GOOD, d->n_good);
    sk_put32(p + SK_STATUS_N_CRC, d->n_crc);
    sk_put32(p + SK_STATUS_N_MALFORMED, d->n_malformed + d->n_oversized);
    sk_put32(p + SK_STATUS_N_OVERRUNS, l->n_overruns);
    sk_put32(p + SK_STATUS_N_DROPPED, l->n_dropped);
    sk_put32(p + SK_STATUS_N_UNKNOWN, l->n_unknown);
    sk_put32(p + SK_STATUS_N_COPIES, l->n_copies);
    sk_put32(p + SK_STATUS_N_REFUSED, l->n_refused);
    sk_put32(p + SK_STATUS_N_UNSENT, l->n_unsent);
    sk_put32(p + SK_STATUS_N_WINDOWS, l->n_windows);
    sk_put32(p + SK_STATUS_N_PASSED_OVER, l->n_passed_over);
    sk_put32(p + SK_STATUS_STACK_FREE, l->stack_free);
    sk_put32(p + SK_STATUS_UPTIME_MS, l->uptime_ms);
    answer(l, SK_STATUS, p, sizeof p, NULL, 0u);
}

static void tell_head(sk_link *l) {
    uint8_t p[SK_HEAD_STATE_FIXED];
    memset(p, 0, sizeof p);
    if (l->head) {
        sk_put32(p + SK_HEAD_STATE_VERSION, sk_head_version(l->head));
        p[SK_HEAD_STATE_N_CLASSES] = sk_head_n_classes(l->head);
        p[SK_HEAD_STATE_N_RIVALS] = sk_head_n_rivals(l->head);
        p[SK_HEAD_STATE_STATE] = l->head->other;
        sk_put32(p + SK_HEAD_STATE_NEXT_VERSION, l->head->other == SK_HEAD_EMPTY ? 0u : l->head->next_version);
        sk_put32(p + SK_HEAD_STATE_N_FLIPS, l->head->n_flips);
    }
    answer(l, SK_HEAD_STATE, p, sizeof p, NULL, 0u);
}

static uint8_t start(sk_link *l, uint8_t format) {
    if (format == 0u || (format & (format - 1u)) != 0u || (format & l->about.formats) == 0u)
        return SK_STATUS_UNSUPPORTED;
    l->format = format;
    return SK_STATUS_DONE;
}

/* Does a command whose session fits. p: n bytes of payload, at least the session. */
static uint8_t obey(sk_link *l, uint8_t type, const uint8_t *p, uint32_t n) {
    switch (type) {
    case SK_START:
        return n == SK_START_FIXED ? start(l, p[SK_START_FORMAT]) : SK_STATUS_MALFORMED;
    case SK_STOP:
        if (n != SK_STOP_FIXED)
            return SK_STATUS_MALFORMED;
        l->format = 0u;
        return SK_STATUS_DONE;
    case SK_HOST_LABEL:
        if (n < SK_HOST_LABEL_FIXED)
            return SK_STATUS_MALFORMED;
        if (l->heard)
            l->heard(l->user, (const char *)p + SK_HOST_LABEL_FIXED, n - SK_HOST_LABEL_FIXED,
                     sk_getf(p + SK_HOST_LABEL_SCORE), p[SK_HOST_LABEL_PHASE]);
        return SK_STATUS_DONE;
    case SK_TEACH:
        if (n != SK_TEACH_FIXED)
            return SK_STATUS_MALFORMED;
        return l->teach ? l->teach(l->user, p[SK_TEACH_INDEX]) : SK_STATUS_UNSUPPORTED;
    default:
        break;
    }
    if (l->head == NULL)
        return SK_STATUS_UNSUPPORTED;
    switch (type) {
    case SK_HEAD_BEGIN:
        if (n != SK_HEAD_BEGIN_FIXED)
            return SK_STATUS_MALFORMED;
        return sk_head_begin(l->head, sk_get32(p + SK_HEAD_BEGIN_VERSION), sk_get16(p + SK_HEAD_BEGIN_DIM),
                             p[SK_HEAD_BEGIN_N_CLASSES], p[SK_HEAD_BEGIN_N_RIVALS], sk_get32(p + SK_HEAD_BEGIN_N_BYTES),
                             sk_get32(p + SK_HEAD_BEGIN_CRC), p + SK_HEAD_BEGIN_EAR);
    case SK_HEAD_CHUNK:
        if (n < SK_HEAD_CHUNK_FIXED)
            return SK_STATUS_MALFORMED;
        return sk_head_chunk(l->head, sk_get32(p + SK_HEAD_CHUNK_VERSION), sk_get32(p + SK_HEAD_CHUNK_OFFSET),
                             p + SK_HEAD_CHUNK_FIXED, n - SK_HEAD_CHUNK_FIXED);
    default:
        if (n != SK_HEAD_COMMIT_FIXED)
            return SK_STATUS_MALFORMED;
        return sk_head_commit(l->head, sk_get32(p + SK_HEAD_COMMIT_VERSION));
    }
}

static void acknowledge(sk_link *l, uint32_t session, uint16_t seq, uint8_t status) {
    uint8_t p[SK_ACK_FIXED];
    sk_put32(p + SK_ACK_SESSION, session);
    sk_put16(p + SK_ACK_SEQ, seq);
    p[SK_ACK_STATUS] = status;
    answer(l, SK_ACK, p, sizeof p, NULL, 0u);
}

/* Does a command once; every copy is answered as the first was. */
static void command(sk_link *l, const sk_packet *packet) {
    uint32_t i, session;
    uint8_t status;
    if (packet->n_payload < 4u) {
        l->n_refused++;
        return;
    }
    session = sk_get32(packet->payload);
    if (session != l->about.session) { /* to who was here before a restart */
        l->n_refused++;
        acknowledge(l, session, packet->seq, SK_STATUS_OTHER_SESSION);
        return;
    }
    for (i = 0u; i < l->n_done; i++)
        if (l->done_seq[i] == packet->seq) {
            l->n_copies++;
            acknowledge(l, session, packet->seq, l->done_status[i]);
            return;
        }
    status = obey(l, packet->type, packet->payload, packet->n_payload);
    if (status != SK_STATUS_DONE)
        l->n_refused++;
    l->done_seq[l->next_done] = packet->seq;
    l->done_status[l->next_done] = status;
    l->next_done = (uint8_t)((l->next_done + 1u) % SK_LINK_REMEMBERED);
    if (l->n_done < SK_LINK_REMEMBERED)
        l->n_done++;
    acknowledge(l, session, packet->seq, status);
}

/* A host opens the link: the numbers of its commands begin anew. */
static void greet(sk_link *l, const sk_packet *packet) {
    uint32_t host;
    if (packet->n_payload != SK_HOST_HELLO_FIXED) {
        l->n_refused++;
        return;
    }
    host = sk_get32(packet->payload + SK_HOST_HELLO_SESSION);
    if (packet->payload[SK_HOST_HELLO_VERSION] != SK_PROTOCOL_VERSION)
        l->n_refused++; /* it sees our version in the answer, and says so */
    else
        l->greeted = 1u;
    if (host != 0u && host != l->host) {
        l->host = host;
        l->n_done = l->next_done = 0u;
    }
    sk_link_hello(l);
}

void sk_link_receive(sk_link *l, uint8_t byte) {
    uint8_t p[SK_TIME_ANSWER_FIXED];
    sk_packet packet;
    if (!sk_decode(&l->decoder, byte, &packet))
        return;
    switch (packet.type) {
    case SK_HOST_HELLO:
        greet(l, &packet);
        break;
    case SK_TIME_QUERY:
        if (packet.n_payload != SK_TIME_QUERY_FIXED) {
            l->n_refused++;
            break;
        }
        memcpy(p + SK_TIME_ANSWER_NUMBER, packet.payload, 4u);
        sk_put32(p + SK_TIME_ANSWER_SAMPLE, l->sample);
        answer(l, SK_TIME_ANSWER, p, sizeof p, NULL, 0u);
        break;
    case SK_STATUS_QUERY:
        tell_status(l);
        break;
    case SK_HEAD_QUERY:
        tell_head(l);
        break;
    case SK_PROBE:
        answer(l, SK_PROBE_ANSWER, packet.payload, packet.n_payload, NULL, 0u);
        break;
    case SK_START:
    case SK_STOP:
    case SK_HOST_LABEL:
    case SK_TEACH:
    case SK_HEAD_BEGIN:
    case SK_HEAD_CHUNK:
    case SK_HEAD_COMMIT:
        command(l, &packet);
        break;
    default:
        l->n_unknown++;
        break;
    }
}

void sk_link_lost(sk_link *l, uint32_t n) { l->sample += n; }

void sk_link_sound(sk_link *l, const int16_t *pcm, uint32_t n) {
    uint8_t p[SK_PCM_FIXED], data[2u * SK_MAX_BLOCK];
    uint32_t i, sample = l->sample;
    l->sample += n;
    if (n == 0u || n > SK_MAX_BLOCK || (l->format != SK_FORMAT_PCM16 && l->format != SK_FORMAT_ADPCM))
        return;
    sk_put32(p, sample);
    if (l->format == SK_FORMAT_PCM16) {
        for (i = 0u; i < n; i++)
            sk_put16(data + 2u * i, (uint16_t)pcm[i]);
        i = (uint32_t)send(l, SK_PCM, p, sizeof p, data, 2u * n, SK_LINK_RESERVE);
    } else {
        i = sk_adpcm_encode(&l->adpcm, pcm, n, data);
        i = (uint32_t)send(l, SK_ADPCM, p, sizeof p, data, i, SK_LINK_RESERVE);
    }
    if (!i)
        l->n_dropped++;
}

void sk_link_frames(sk_link *l, uint32_t sample, const int16_t *logs, uint8_t n_bands, uint8_t n_frames) {
    uint8_t p[SK_FEATURES_FIXED];
    const uint32_t n = 2u * n_bands * n_frames; /* the processor is little-endian, see sk_bytes.h */
    if (n == 0u || l->format != SK_FORMAT_LOG_MEL)
        return;
    sk_put32(p + SK_FEATURES_SAMPLE, sample);
    p[SK_FEATURES_N_BANDS] = n_bands;
    p[SK_FEATURES_N_FRAMES] = n_frames;
    if (!send(l, SK_FEATURES, p, sizeof p, (const uint8_t *)(const void *)logs, n, SK_LINK_RESERVE))
        l->n_dropped++;
}

void sk_link_label(sk_link *l, uint32_t sample, int16_t index, float score) {
    uint8_t p[SK_DEVICE_LABEL_FIXED];
    const char *name = l->head && index >= 0 ? sk_head_name(l->head, (uint8_t)index) : "";
    sk_put32(p + SK_DEVICE_LABEL_SAMPLE, sample);
    sk_put32(p + SK_DEVICE_LABEL_HEAD_VERSION, l->head ? sk_head_version(l->head) : 0u);
    sk_put16(p + SK_DEVICE_LABEL_INDEX, (uint16_t)index);
    sk_putf(p + SK_DEVICE_LABEL_SCORE, score);
    answer(l, SK_DEVICE_LABEL, p, sizeof p, (const uint8_t *)name, length_of(name, SK_HEAD_NAME_BYTES));
}

void sk_link_scores(sk_link *l, uint32_t sample, const float *scores, uint8_t n) {
    uint8_t p[SK_SCORES_FIXED];
    sk_put32(p + SK_SCORES_SAMPLE, sample);
    sk_put32(p + SK_SCORES_HEAD_VERSION, l->head ? sk_head_version(l->head) : 0u);
    answer(l, SK_SCORES, p, sizeof p, (const uint8_t *)(const void *)scores, 4u * n);
}

int sk_link_example(sk_link *l, uint32_t sample, uint32_t version, uint8_t index, const char *name,
                    const int16_t *grid, uint16_t dim) {
    uint8_t p[SK_EXAMPLE_FIXED + SK_HEAD_NAME_BYTES];
    const uint32_t n_name = length_of(name, SK_HEAD_NAME_BYTES);
    sk_put32(p + SK_EXAMPLE_SAMPLE, sample);
    sk_put32(p + SK_EXAMPLE_HEAD_VERSION, version);
    p[SK_EXAMPLE_INDEX] = index;
    p[SK_EXAMPLE_N_NAME] = (uint8_t)n_name;
    memcpy(p + SK_EXAMPLE_FIXED, name, n_name);
    if (send(l, SK_EXAMPLE, p, SK_EXAMPLE_FIXED + n_name, (const uint8_t *)(const void *)grid, 2u * dim, 0u))
        return 1;
    l->n_unsent++;
    return 0;
}

void sk_link_log(sk_link *l, const char *text) {
    answer(l, SK_LOG, NULL, 0u, (const uint8_t *)text, length_of(text, 200u));
}
