// Channels; see channel.h. tcp.c and udp.c have what is particular to each.
#include "gateway/channels/channel.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "gateway/base/log.h"
#include "gateway/run/gateway.h"

int channel_socket_name(const uv_handle_t *handle, char *text) {
    struct sockaddr_storage name;
    int length = sizeof name;
    int result = handle->type == UV_TCP
                     ? uv_tcp_getsockname((const uv_tcp_t *)handle, (struct sockaddr *)&name, &length)
                     : uv_udp_getsockname((const uv_udp_t *)handle, (struct sockaddr *)&name, &length);
    if (result == 0)
        address_write((struct sockaddr *)&name, text);
    return result;
}

// The system gives each connection, and each device's datagrams, to one of the sockets.
int channel_share_port(const uv_handle_t *handle, const struct config *config) {
    int descriptor, on = 1;
    if (config->workers < 2)
        return 0;
    int result = uv_fileno(handle, &descriptor);
    if (result == 0 && setsockopt(descriptor, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) != 0)
        result = -errno;
    return result;
}

static bool report_open(struct channel *channel, const char *transport, const struct sockaddr_storage *wanted,
                        const uv_handle_t *handle, int result) {
    char name[ADDRESS_TEXT_MAX];
    if (result == 0)
        result = channel_socket_name(handle, name);
    if (result != 0) {
        log_error("channel %s: cannot listen on %s %s: %s", channel->config->name, transport,
                  address_write((const struct sockaddr *)wanted, name), uv_strerror(result));
        return false;
    }
    log_info("channel %s: %s devices connect to %s %s", channel->config->name, channel->config->codec->name,
             transport, name);
    channel->gateway->listening++;
    return true;
}

void channel_open(struct channel *channel, struct gateway *gateway, const struct config_channel *config) {
    channel->gateway = gateway;
    channel->config = config;
    if (config->has_tcp) {
        int result = tcp_listen(channel);
        channel->tcp_open = true; // also a socket that does not listen wants closing
        channel->tcp_listens =
            report_open(channel, "tcp", &config->tcp, (uv_handle_t *)&channel->tcp, result);
    }
    if (config->has_udp) {
        int result = udp_bind(channel);
        channel->udp_open = true;
        channel->udp_listens =
            report_open(channel, "udp", &config->udp, (uv_handle_t *)&channel->udp, result);
    }
    channel_changed(channel);
}

size_t channel_resume(struct channel *channel, size_t count) {
    return channel->tcp_open ? tcp_resume(channel, count) : 0;
}

void channel_close(struct channel *channel) {
    if (channel->tcp_open)
        tcp_close_all(channel);
    if (channel->udp_open)
        udp_close_all(channel);
    channel->tcp_open = channel->udp_open = channel->tcp_listens = channel->udp_listens = false;
    channel_changed(channel);
}

// "ip:port" where devices connect, or null.
static json_t *listening_at(const uv_handle_t *handle, bool open) {
    char name[ADDRESS_TEXT_MAX];
    return open && channel_socket_name(handle, name) == 0 ? json_string(name) : json_null();
}

void channel_changed(struct channel *channel) {
    channel->state_due = true;
    state_is_due(channel->gateway);
}

void channel_publish_state(struct channel *channel) {
    struct gateway *gateway = channel->gateway;
    const struct config_channel *config = channel->config;
    json_int_t id = config->id, connections = (json_int_t)channel->connection_count;
    json_t *state = json_pack("{s:I, s:s, s:i, s:s, s:o, s:o, s:I}", "id", id, "name", config->name,
                              "protocol_id", (int)config->codec->id, "protocol_name", config->codec->name,
                              "tcp", listening_at((uv_handle_t *)&channel->tcp, channel->tcp_listens), "udp",
                              listening_at((uv_handle_t *)&channel->udp, channel->udp_listens), "connections",
                              connections);
    if (!gateway->config->commands.intake)
        gateway_publish(gateway, state, MQTT_RETAINED, "state/gw/instances/%s/channels/%lld",
                        gateway->config->mqtt.client_id, (long long)id);
    if (instances_sum_here(gateway)) {
        json_object_set_new(state, "connections",
                            json_integer(connections + instances_connections(gateway, id)));
        gateway_publish(gateway, state, MQTT_RETAINED, "state/gw/channels/%lld", (long long)id);
    }
    json_decref(state);
    channel->state_due = false;
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
             "%llu bytes of junk, beyond the limits %llu connections and %llu datagrams",
             channel->config->name, channel->connection_count, (unsigned long long)counters->bytes,
             (unsigned long long)counters->messages, (unsigned long long)counters->answers, rejected,
             (unsigned long long)counters->removed_values, (unsigned long long)counters->junk_bytes,
             (unsigned long long)channel->refused_connections,
             (unsigned long long)channel->refused_datagrams);
}
