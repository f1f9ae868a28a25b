// A row of the list; see row.h.
#include "gateway/web/row.h"

#include <stdio.h>

#include "codecs/codec.h"

char *row_place(const struct fleet_device *device, char *place) {
    if (device->id >= 0)
        snprintf(place, ROW_PLACE_MAX, "devices/%lld", (long long)device->id);
    else
        snprintf(place, ROW_PLACE_MAX, "channels/%lld/%s", (long long)device->channel, device->ident);
    return place;
}

static void write_connection(const struct fleet_device *device, struct text_out *out) {
    if (device->connection != FLEET_UNKNOWN)
        text_out_member_bool(out, "connected", device->connection == FLEET_CONNECTED);
}

static void write_values(const struct fleet_device *device, struct text_out *out) {
    text_out_member_number(out, "position.latitude", device->latitude);
    text_out_member_number(out, "position.longitude", device->longitude);
    text_out_member_number(out, "position.speed", device->speed);
    text_out_member_number(out, "position.direction", device->direction);
    text_out_member_number(out, "battery.voltage", device->battery);
}

// The last thing that was said, and the last that was worth remembering.
static void write_events(const struct fleet_device *device, struct text_out *out) {
    if (*device->event != '\0')
        text_out_member_string(out, "event", device->event);
    if (*device->notable == '\0')
        return;
    text_out_member_string(out, device->alarm ? "alarm" : "notable", device->notable);
    text_out_member_seconds(out, "notable_at", device->notable_at);
}

void row_write(const struct fleet_device *device, const struct waiting *waiting, struct text_out *out) {
    const struct codec *codec = codec_by_id((unsigned)device->protocol);
    char place[ROW_PLACE_MAX];
    text_out_member_string(out, "ident", device->ident);
    if (device->id >= 0)
        text_out_member_integer(out, "id", device->id);
    text_out_member_string(out, "name", *device->name != '\0' ? device->name : device->ident);
    write_connection(device, out);
    text_out_member_seconds(out, "last_active", device->heard);
    text_out_member_seconds(out, "timestamp", device->reported);
    write_values(device, out);
    write_events(device, out);
    if (device->channel >= 0)
        text_out_member_integer(out, "channel.id", device->channel);
    if (codec != NULL)
        text_out_member_string(out, "protocol", codec->name);
    text_out_member_integer(out, "waiting", (int64_t)waiting_count(waiting, row_place(device, place)));
}
