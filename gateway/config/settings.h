// What a configuration says, as it was read: see config.h.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "codecs/codec.h"
#include "gateway/base/address.h"
#include "gateway/base/log.h"
#include "gateway/config/broker_url.h"

struct config_channel {
    int64_t id;
    const char *name;
    const struct codec *codec;
    bool has_tcp, has_udp;
    struct sockaddr_storage tcp, udp;
    const char *options[CODEC_OPTIONS_MAX]; // in the order of the codec's; NULL where none is set
    bool proxy_protocol;                    // a balancer's header comes in front of what a device says
    struct address_range *proxy_from;       // where balancers are
    size_t proxy_from_count;
    struct codec_battery *battery; // how full one is, as the user says it; NULL: as the codec does
};

struct config_device {
    const char *ident;
    int64_t id;
    const char *name;
    int64_t type_id;
};

// The registry as it was read: devices, and the contents of devices_file.
struct config_devices {
    struct config_device *list;
    size_t count;
    json_t *array, *file; // own the texts of devices, and of devices_file; or NULL
};

enum config_unknown { UNKNOWN_ACCEPT, UNKNOWN_CHANNEL, UNKNOWN_REJECT };
enum config_discovery { DISCOVERY_ENTITIES, DISCOVERY_DEVICE };
enum config_telemetry { TELEMETRY_PARAMETERS, TELEMETRY_POSITION, TELEMETRY_OFF };
// Who stays when a second connection says the same ident.
enum config_takeover { TAKEOVER_NEWEST, TAKEOVER_KEEP };

enum config_mqtt_version { MQTT_VERSION_AUTO, MQTT_VERSION_5, MQTT_VERSION_3_1_1 };

struct config {
    const char *file; // that it was read from, the caller's; NULL: from none
    struct config_channel *channels;
    size_t channel_count;
    struct {
        struct broker_address *brokers; // in the order in which they are tried, at least one
        size_t broker_count;
        const char *host; // of the first one
        int port;
        enum config_mqtt_version version;
        const char *client_id, *username, *password; // username and password: NULL if not set
        const char *ca_file, *cert_file, *key_file;  // NULL if not set
        const char *topic_prefix;
        int qos, inflight;
    } mqtt;
    struct config_devices *devices;
    const char *devices_file; // or NULL
    enum config_unknown unknown_devices;
    bool on_channels, on_devices; // which topics messages are published on
    enum config_telemetry telemetry;
    int64_t telemetry_interval; // microseconds
    struct {
        bool enabled;
        const char *prefix;
        bool unknown_devices;
        int alarm_hold; // seconds; 0: until the next report
        enum config_discovery discovery;
    } home_assistant;
    struct {
        bool enabled;
        const char *prefix;
    } owntracks;
    struct {
        int connections, connections_per_address, idle_timeout, identify_timeout; // seconds
        int datagrams_per_second;                                                 // from one address
        int unknown_devices;                                                      // with an identity at once
        int forget_unknown_after;                                                 // seconds
        int tcp_keepalive;                                                        // seconds; 0: off
        enum config_takeover takeover;
    } limits;
    struct {
        bool intake;
        int ttl, timeout, max_attempts, udp_reachable; // seconds
        char *key;                                     // that signs entries; NULL: the store's
        size_t key_length;
    } commands;
    struct {
        const char *listen;               // "ip:port", or NULL: no page
        const char *users_file;           // or NULL: nobody logs in
        bool commands;                    // whether who is logged in may command
        bool behind_proxy;                // a proxy in front does TLS and says who the client is
        const char *tiles, *attribution;  // of the map; tiles may be NULL
        int trail;                        // points of a device
        const char *cert_file, *key_file; // or NULL
    } web;
    struct {
        char *url;           // or NULL: no service is asked
        char *key;           // of the service, or NULL
        unsigned timeout;    // milliseconds
        int cache;           // surroundings that are remembered
        double max_accuracy; // meters
    } geolocation;           // owns its texts: it can change while the gateway runs
    const char *store_path;
    size_t store_max_bytes;
    unsigned worker, workers; // which one of how many processes that share the ports, from 1; 0: the only one
    bool hand_over;           // end, and remove the store, once the broker has what waits in it
    enum log_level log_level;
    enum log_format log_format;
    json_t *json; // owns the texts above
    char *password_text;
};
