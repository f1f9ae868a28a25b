// Channels; see channel.h. tcp.c and udp.c have what is specific to each.
#include "gateway/channels/channel.h"

#include <stdio.h>
#include <string.h>

#include "gateway/base/log.h"
#include "gateway/channels/socket.h"

static bool report_open(struct channel *channel, const char *transport, const struct sockaddr_storage *wanted,
                        const uv_handle_t *handle, int result) {
    char name[ADDRESS_TEXT_MAX];
    if (result == 0)
        result = socket_name(handle, name);
    if (result != 0) {
        log_error("channel %s: cannot listen on %s %s: %s", channel->config->name, transport,
                  address_write((const struct sockaddr *)wanted, name), uv_strerror(result));
        return false;
    }
    log_info("channel %s: listening for %s devices on %s %s", channel->config->name,
             channel->config->codec->name, transport, name);
    return true;
}

static void tell_changed(const struct channel *channel) {
    channel->parts->observer->changed(channel->parts->observer->context, channel->config);
}

// For those who knock at the wrong channel.
static void note_place(const struct channel *channel) {
    struct channel_place *place = &channel->parts->places[channel->config - channel->parts->config->channels];
    *place = (struct channel_place){0};
    channel_tcp_name(channel, place->tcp);
    channel_udp_name(channel, place->udp);
}

size_t channel_open(struct channel *channel, struct channel_parts *parts,
                    const struct config_channel *config) {
    channel->parts = parts;
    channel->config = config;
    if (config->has_tcp) {
        int result = tcp_listen(&channel->tcp, parts, config, &channel->counters);
        channel->tcp_open = true; // also a socket that does not listen wants closing
        channel->tcp_listens =
            report_open(channel, "tcp", &config->tcp, (uv_handle_t *)&channel->tcp.socket, result);
    }
    if (config->has_udp) {
        int result = udp_bind(&channel->udp, parts, config, &channel->counters);
        channel->udp_open = result == 0;
        channel->udp_listens =
            report_open(channel, "udp", &config->udp, (uv_handle_t *)&channel->udp.socket, result);
    }
    note_place(channel);
    tell_changed(channel);
    return (size_t)channel->tcp_listens + (size_t)channel->udp_listens;
}

size_t channel_resume(struct channel *channel, size_t count) {
    return channel->tcp_open ? tcp_resume(&channel->tcp, count) : 0;
}

void channel_set_timeouts(struct channel *channel) {
    if (channel->tcp_open)
        tcp_set_timeouts(&channel->tcp);
}

void channel_close(struct channel *channel) {
    if (channel->tcp_open)
        tcp_close(&channel->tcp);
    if (channel->udp_open)
        udp_close(&channel->udp);
    channel->tcp_open = channel->udp_open = channel->tcp_listens = channel->udp_listens = false;
    tell_changed(channel);
}

size_t channel_connections(const struct channel *channel) {
    return channel->tcp.count;
}

static const char *name_of(const uv_handle_t *handle, bool listens, char *text) {
    return listens && socket_name(handle, text) == 0 ? text : NULL;
}

const char *channel_tcp_name(const struct channel *channel, char *text) {
    return name_of((const uv_handle_t *)&channel->tcp.socket, channel->tcp_listens, text);
}

const char *channel_udp_name(const struct channel *channel, char *text) {
    return name_of((const uv_handle_t *)&channel->udp.socket, channel->udp_listens, text);
}

void channel_log_counters(const struct channel *channel) {
    const struct stream_counters *counters = &channel->counters;
    char rejected[256] = "";
    for (int verdict = CODEC_OK + 1; verdict < CODEC_VERDICT_COUNT; verdict++) {
        size_t used = strlen(rejected);
        if (counters->verdicts[verdict] > 0)
            snprintf(rejected + used, sizeof rejected - used, ", %llu records %s",
                     (unsigned long long)counters->verdicts[verdict],
                     codec_verdict_name((enum codec_verdict)verdict));
    }
    log_info("channel %s: %zu connections, %llu bytes, %llu messages, %llu answers%s, %llu values left out, "
             "%llu bytes of junk, over the limits: %llu connections, %llu datagrams",
             channel->config->name, channel->tcp.count, (unsigned long long)counters->bytes,
             (unsigned long long)counters->messages, (unsigned long long)counters->answers, rejected,
             (unsigned long long)counters->removed_values, (unsigned long long)counters->junk_bytes,
             (unsigned long long)channel->tcp.refused, (unsigned long long)channel->udp.refused);
}
