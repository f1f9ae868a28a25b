// What a device on the wrong port speaks; see guess.h.
#include "gateway/channels/guess.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codecs/foreign.h"
#include "gateway/base/memory.h"

// --- whether a codec knows how it begins ---

struct trial {
    bool identified, failed;
};

static enum codec_identity note_ident(void *context, const char *ident) {
    struct trial *trial = context;
    trial->identified = !trial->failed;
    return CODEC_REFUSED; // nothing more of it is read
}

static void note_fault(void *context, const struct stream_fault *fault) {
    struct trial *trial = context;
    trial->failed = true;
}

static void ignore_message(void *context, struct message *message) {
}

static void ignore_reply(void *context, const uint8_t *bytes, size_t length, enum codec_reply_when when) {
}

static void ignore_answer(void *context, const struct codec_answer *answer) {
}

static const struct stream_sink trial_sink = {.identify = note_ident,
                                              .message = ignore_message,
                                              .reply = ignore_reply,
                                              .answer = ignore_answer,
                                              .fault = note_fault};

// The first thing in the bytes is a frame of the codec that says which device it is from.
static bool knows(const struct codec *codec, const uint8_t *bytes, size_t length) {
    struct stream_counters counters = {0};
    struct trial trial = {0};
    struct stream stream;
    stream_init(&stream, codec, &trial_sink, &trial, &counters);
    stream_feed(&stream, bytes, length, CODEC_END);
    stream_free(&stream);
    return trial.identified;
}

static const struct codec *find_codec(const struct peer *peer, const uint8_t *bytes, size_t length) {
    for (size_t i = 0; codec_at(i) != NULL; i++)
        if (codec_at(i) != peer->channel->codec && knows(codec_at(i), bytes, length))
            return codec_at(i);
    return NULL;
}

// --- where that is spoken ---

// Where a channel listens, by the peer's transport if it can be; NULL when nowhere.
static const char *port_of(const struct channel_place *place, bool is_udp, const char **how) {
    const char *same = is_udp ? place->udp : place->tcp, *other = is_udp ? place->tcp : place->udp;
    *how = *same != '\0' ? "" : is_udp ? " over TCP" : " over UDP";
    const char *colon = strrchr(*same != '\0' ? same : other, ':');
    return colon != NULL ? colon + 1 : NULL;
}

static void describe(const struct peer *peer, const struct codec *codec, char text[GUESS_TEXT_MAX]) {
    const struct config *config = peer->parts->config;
    for (size_t i = 0; i < config->channel_count; i++) {
        const char *how, *port = port_of(&peer->parts->places[i], peer->transport->is_udp, &how);
        if (config->channels[i].codec != codec || port == NULL)
            continue;
        snprintf(text, GUESS_TEXT_MAX, "this looks like %s; channel %s listens on %s%s", codec->name,
                 config->channels[i].name, port, how);
        return;
    }
    snprintf(text, GUESS_TEXT_MAX, "this looks like %s, and no channel here listens for that", codec->name);
}

bool guess_protocol(const struct peer *peer, const uint8_t *bytes, size_t length, char text[GUESS_TEXT_MAX]) {
    const char *foreign = foreign_protocol(bytes, length);
    const struct codec *codec = foreign == NULL ? find_codec(peer, bytes, length) : NULL;
    if (foreign != NULL)
        snprintf(text, GUESS_TEXT_MAX, "this looks like %s, which no tracker speaks", foreign);
    else if (codec != NULL)
        describe(peer, codec, text);
    return foreign != NULL || codec != NULL;
}
