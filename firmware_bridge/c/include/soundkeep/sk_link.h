/* The device's side of the link (docs/link_protocol.md): bytes in, packets out, no I/O of its own.
 *
 * Packets go whole into a ring that the port empties; what finds no room is counted and left out. A part of the ring is
 * kept free of sound, so that answers pass even when the line is too slow for the sound. Sound is never sent twice: its
 * counter goes on over what was lost. Commands are done once, and every copy is answered.
 *
 * All functions are for one thread (the main loop). An interrupt may fill the port's own receive ring and empty out. */
#ifndef SOUNDKEEP_SK_LINK_H
#define SOUNDKEEP_SK_LINK_H

#include "soundkeep/sk_adpcm.h"
#include "soundkeep/sk_head.h"
#include "soundkeep/sk_packet.h"
#include "soundkeep/sk_ring.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SK_LINK_REMEMBERED 32u /* commands of which a copy is known */
#define SK_LINK_RESERVE 512u   /* bytes of the ring that sound leaves free */
#define SK_MAX_BLOCK 500u      /* samples of one packet */
#define SK_MAX_NAME 64u

/* What the device is. session: new at each start, as random as there is. formats: bits of SK_FORMAT_... that the port
 * sends. block: samples of a packet. ear, front_end: 8 bytes each, or NULL. name: UTF-8, at most SK_MAX_NAME bytes. */
typedef struct sk_about {
    uint32_t session, sample_rate;
    const char *name;
    const uint8_t *ear, *front_end;
    uint16_t block;
    uint8_t formats;
} sk_about;

typedef struct sk_link {
    sk_about about;
    sk_decoder decoder;
    sk_ring out;         /* what the port sends */
    sk_head *head;       /* NULL: it recognises nothing itself */
    sk_adpcm adpcm;
    /* May be NULL. heard: what the host heard; label: n bytes of UTF-8, none for an unknown sound. teach: learn the next
     * window as class index, returns a SK_STATUS_... */
    void (*heard)(void *user, const char *label, uint32_t n, float score, uint8_t begins);
    uint8_t (*teach)(void *user, uint8_t index);
    void *user;
    uint32_t sample;     /* counter of the next sample */
    uint32_t host;       /* the host's number of this opening */
    /* Counters of Status; the port adds to n_overruns, stack_free and uptime_ms. */
    uint32_t n_overruns, n_dropped, n_unknown, n_copies, n_refused, n_unsent, n_windows, n_passed_over, stack_free, uptime_ms;
    uint16_t seq;
    uint8_t format;      /* 0: nobody listens */
    uint8_t greeted;     /* whether a host has said anything */
    uint8_t n_done, next_done;
    uint16_t done_seq[SK_LINK_REMEMBERED];
    uint8_t done_status[SK_LINK_REMEMBERED];
    uint8_t scratch[SK_MAX_PACKET];
} sk_link;

/* out: n_out bytes for what is to be sent, 2048 at least (4096 hold 100 ms of PCM16 at 16 kHz). head: or NULL. */
void sk_link_init(sk_link *link, const sk_about *about, uint8_t *out, uint32_t n_out, sk_head *head);

/* Take one byte from the line, and do what it completes. */
void sk_link_receive(sk_link *link, uint8_t byte);

/* The microphone gave n samples, at most SK_MAX_BLOCK: they are sent in the format that the host asked for, or not. */
void sk_link_sound(sk_link *link, const int16_t *pcm, uint32_t n);

/* Log-mel frames, as sk_mel_push makes them; sample: counter of the first frame's first sample. Sent if that is what
 * the host asked for. */
void sk_link_frames(sk_link *link, uint32_t sample, const int16_t *logs, uint8_t n_bands, uint8_t n_frames);

/* n samples were lost before they came here: the counter goes on. */
void sk_link_lost(sk_link *link, uint32_t n);

/* Say who this is: at the start, and again each second until somebody answered (greeted), where nobody dials. */
void sk_link_hello(sk_link *link);

/* What the device heard in the window that ends at sample: index of the head's class, -1 for none of them. */
void sk_link_label(sk_link *link, uint32_t sample, int16_t index, float score);
void sk_link_scores(sk_link *link, uint32_t sample, const float *scores, uint8_t n);

/* An embedding that was learnt here, dim numbers on the grid, of the window that ended at sample: as class index, called
 * name, of the head of that version. Returns 1, or 0 when it found no room. */
int sk_link_example(sk_link *link, uint32_t sample, uint32_t version, uint8_t index, const char *name,
                    const int16_t *grid, uint16_t dim);

/* A sentence for people. */
void sk_link_log(sk_link *link, const char *text);

#ifdef __cplusplus
}
#endif

#endif
