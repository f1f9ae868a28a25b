// What a device sees around it; see surroundings.h.
#include "gateway/geolocation/surroundings.h"

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"
#include "gateway/base/text.h"

#define NO_MAPPING "_nomap"
#define GSM_LAST   65535 // cells of GSM have 16 bits
#define CELL_LAST  268435455
#define LAC_LAST   65535
#define KEY_BYTES  2048

// --- access points ---

struct row {
    const struct message_value *mac, *rssi, *ssid;
};

static const char *text_of(const struct message *message, const struct message_value *value, size_t *length) {
    *length = value->text.length;
    return message->text + value->text.offset;
}

static bool read_mac(const char *text, size_t length, uint8_t mac[6]) {
    char copy[18];
    unsigned parts[6];
    int end = 0;
    if (length != sizeof copy - 1)
        return false;
    memcpy(copy, text, length);
    copy[length] = '\0';
    if (sscanf(copy, "%2x:%2x:%2x:%2x:%2x:%2x%n", &parts[0], &parts[1], &parts[2], &parts[3], &parts[4],
               &parts[5], &end) != 6 ||
        end != (int)length)
        return false;
    for (size_t i = 0; i < 6; i++)
        mac[i] = (uint8_t)parts[i];
    return true;
}

// Nobody is at an address of zeros, nor at one for many.
static bool is_one(const uint8_t mac[6]) {
    static const uint8_t none[6];
    return memcmp(mac, none, sizeof none) != 0 && (mac[0] & 1) == 0;
}

static bool may_be_mapped(const struct message *message, const struct message_value *ssid) {
    size_t length = 0, end = strlen(NO_MAPPING);
    const char *text = ssid != NULL ? text_of(message, ssid, &length) : "";
    return length < end || memcmp(text + length - end, NO_MAPPING, end) != 0;
}

static bool has_point(const struct surroundings *surroundings, const uint8_t mac[6]) {
    for (size_t i = 0; i < surroundings->point_count; i++)
        if (memcmp(surroundings->points[i].mac, mac, 6) == 0)
            return true;
    return false;
}

static void add_point(struct surroundings *surroundings, const struct message *message,
                      const struct row *row) {
    struct surroundings_point point = {.rssi = 0};
    size_t length;
    const char *text = row->mac != NULL ? text_of(message, row->mac, &length) : NULL;
    if (text == NULL || !read_mac(text, length, point.mac) || !is_one(point.mac) ||
        !may_be_mapped(message, row->ssid) || has_point(surroundings, point.mac) ||
        surroundings->point_count == SURROUNDINGS_POINTS_MAX)
        return;
    if (row->rssi != NULL)
        point.rssi = (int16_t)decimal_to_double(row->rssi->number);
    surroundings->points[surroundings->point_count++] = point;
}

// The values of a row stand one behind the other.
static void read_points(struct surroundings *surroundings, const struct message *message) {
    struct row row = {NULL, NULL, NULL};
    unsigned at = 0;
    for (size_t i = 0; i < message->count; i++) {
        const struct message_value *value = &message->values[i];
        if (field_table[value->field].list != FIELD_WIFI_ACCESS_POINTS)
            continue;
        if (value->row != at) {
            add_point(surroundings, message, &row);
            row = (struct row){NULL, NULL, NULL};
            at = value->row;
        }
        if (value->field == FIELD_WIFI_ACCESS_POINTS_MAC)
            row.mac = value;
        else if (value->field == FIELD_WIFI_ACCESS_POINTS_RSSI)
            row.rssi = value;
        else
            row.ssid = value;
    }
    add_point(surroundings, message, &row);
}

// --- cells ---

// -1: not said.
struct said {
    int64_t mcc, mnc, lac, cellid, pcid;
};
#define NOT_SAID ((struct said){-1, -1, -1, -1, -1})

static int64_t number_of(const struct message *message, enum field field) {
    const struct message_value *value = message_get(message, field);
    return value != NULL ? decimal_at(value->number, 0) : -1;
}

static bool is_cell(const struct said *cell) {
    return cell->mcc > 0 && cell->mcc <= 999 && cell->mnc >= 0 && cell->mnc <= 999 && cell->lac > 0 &&
           cell->lac < LAC_LAST && cell->cellid > 0 && cell->cellid < CELL_LAST && cell->cellid != GSM_LAST;
}

static bool network_is(const struct message *message, const char *const *words) {
    const struct message_value *value = message_get(message, FIELD_GSM_NETWORK_TYPE);
    size_t length = 0;
    const char *text = value != NULL ? text_of(message, value, &length) : "";
    for (; *words != NULL; words++)
        if (memmem(text, length, *words, strlen(*words)) != NULL)
            return true;
    return false;
}

// The device says it, or the numbers do: only cells of LTE have a physical id, and those of GSM are short.
static const char *radio_of(const struct message *message, const struct said *cell) {
    static const char *const lte[] = {"LTE", "4G", "NB", "CAT", "lte", NULL};
    static const char *const wcdma[] = {"WCDMA", "UMTS", "3G", "HSPA", "wcdma", "umts", NULL};
    if (cell->pcid >= 0 || network_is(message, lte))
        return "lte";
    if (network_is(message, wcdma))
        return "wcdma";
    return cell->cellid <= GSM_LAST ? "gsm" : "lte";
}

static void add_cell(struct surroundings *surroundings, const struct message *message,
                     const struct said *said) {
    if (!is_cell(said) || surroundings->cell_count == SURROUNDINGS_CELLS_MAX)
        return;
    struct surroundings_cell *cell = &surroundings->cells[surroundings->cell_count++];
    memset(cell, 0, sizeof *cell); // what lies between is part of the key
    cell->cellid = (uint64_t)said->cellid;
    cell->lac = (uint32_t)said->lac;
    cell->mcc = (uint16_t)said->mcc;
    cell->mnc = (uint16_t)said->mnc;
    strcpy(cell->radio, radio_of(message, said));
}

static int64_t *part_of(struct said *cell, enum field field) {
    switch (field) {
    case FIELD_GSM_CELLS_MCC:
        return &cell->mcc;
    case FIELD_GSM_CELLS_MNC:
        return &cell->mnc;
    case FIELD_GSM_CELLS_LAC:
        return &cell->lac;
    case FIELD_GSM_CELLS_CELLID:
        return &cell->cellid;
    default:
        return &cell->pcid;
    }
}

static void read_listed_cells(struct surroundings *surroundings, const struct message *message) {
    struct said cell = NOT_SAID;
    unsigned at = 0;
    for (size_t i = 0; i < message->count; i++) {
        const struct message_value *value = &message->values[i];
        if (field_table[value->field].list != FIELD_GSM_CELLS)
            continue;
        if (value->row != at) {
            add_cell(surroundings, message, &cell);
            cell = NOT_SAID;
            at = value->row;
        }
        *part_of(&cell, value->field) = decimal_at(value->number, 0);
    }
    add_cell(surroundings, message, &cell);
}

// Several stand in a list, with the serving one in front; one alone does not.
static void read_cells(struct surroundings *surroundings, const struct message *message) {
    const struct said serving = {
        .mcc = number_of(message, FIELD_GSM_MCC),
        .mnc = number_of(message, FIELD_GSM_MNC),
        .lac = number_of(message, FIELD_GSM_LAC),
        .cellid = number_of(message, FIELD_GSM_CELLID),
        .pcid = number_of(message, FIELD_GSM_PCID),
    };
    if (message_get(message, FIELD_GSM_CELLS) != NULL)
        read_listed_cells(surroundings, message);
    else
        add_cell(surroundings, message, &serving);
}

bool surroundings_of(const struct message *message, struct surroundings *surroundings) {
    surroundings->point_count = surroundings->cell_count = 0;
    if (message_get(message, FIELD_POSITION_LATITUDE) != NULL ||
        message_get(message, FIELD_POSITION_LONGITUDE) != NULL)
        return false;
    if (message_get(message, FIELD_WIFI_ACCESS_POINTS) != NULL)
        read_points(surroundings, message);
    read_cells(surroundings, message);
    return surroundings->point_count + surroundings->cell_count > 0;
}

// --- the key ---

static int compare_macs(const void *one, const void *other) {
    return memcmp(one, other, 6);
}

static int compare_cells(const void *one, const void *other) {
    return memcmp(one, other, sizeof(struct surroundings_cell));
}

// In any case less than KEY_BYTES.
static size_t write_sorted(const struct surroundings *surroundings, uint8_t *bytes) {
    uint8_t(*macs)[6] = (uint8_t(*)[6])bytes;
    size_t points = surroundings->point_count, cells = surroundings->cell_count;
    for (size_t i = 0; i < points; i++)
        memcpy(macs[i], surroundings->points[i].mac, 6);
    qsort(macs, points, 6, compare_macs);
    struct surroundings_cell sorted[SURROUNDINGS_CELLS_MAX];
    memcpy(sorted, surroundings->cells, cells * sizeof *sorted);
    qsort(sorted, cells, sizeof *sorted, compare_cells);
    memcpy(bytes + points * 6, sorted, cells * sizeof *sorted);
    return points * 6 + cells * sizeof *sorted;
}

uint64_t surroundings_key(const struct surroundings *surroundings, const char *url) {
    uint8_t bytes[KEY_BYTES], digest[32];
    uint64_t key;
    gnutls_hash_hd_t hash;
    uint8_t counts[2] = {(uint8_t)surroundings->point_count, (uint8_t)surroundings->cell_count};
    size_t length = write_sorted(surroundings, bytes);
    must_have(gnutls_hash_init(&hash, GNUTLS_DIG_SHA256) == 0 ? digest
                                                              : NULL); // fails for want of memory only
    gnutls_hash(hash, url, strlen(url) + 1);
    gnutls_hash(hash, counts, sizeof counts);
    gnutls_hash(hash, bytes, length);
    gnutls_hash_deinit(hash, digest);
    memcpy(&key, digest, sizeof key);
    return key;
}

// --- the question ---

static json_t *point_json(const struct surroundings_point *point) {
    char mac[18];
    snprintf(mac, sizeof mac, "%02x:%02x:%02x:%02x:%02x:%02x", point->mac[0], point->mac[1], point->mac[2],
             point->mac[3], point->mac[4], point->mac[5]);
    json_t *json = json_pack("{s:s}", "macAddress", mac);
    if (point->rssi < 0)
        json_object_set_new(json, "signalStrength", json_integer(point->rssi));
    return json;
}

static json_t *cell_json(const struct surroundings_cell *cell) {
    return json_pack("{s:s, s:i, s:i, s:I, s:I}", "radioType", cell->radio, "mobileCountryCode", cell->mcc,
                     "mobileNetworkCode", cell->mnc, "locationAreaCode", (json_int_t)cell->lac, "cellId",
                     (json_int_t)cell->cellid);
}

// Not by our own address: that is where the gateway is.
char *surroundings_question(const struct surroundings *surroundings) {
    json_t *json = must_have(json_pack("{s:b}", "considerIp", 0));
    json_t *points = json_array(), *cells = json_array();
    for (size_t i = 0; i < surroundings->point_count; i++)
        json_array_append_new(points, point_json(&surroundings->points[i]));
    for (size_t i = 0; i < surroundings->cell_count; i++)
        json_array_append_new(cells, cell_json(&surroundings->cells[i]));
    if (surroundings->point_count > 0)
        json_object_set(json, "wifiAccessPoints", points);
    if (surroundings->cell_count > 0)
        json_object_set(json, "cellTowers", cells);
    char *text = text_of_json(json, TEXT_VALUE_DIGITS);
    json_decref(points);
    json_decref(cells);
    json_decref(json);
    return text;
}
