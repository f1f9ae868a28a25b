// How `trackbus watch` looks; see view.h.
#include "gateway/watch/view.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/text.h"
#include "gateway/fleet/when.h"

#define CELL_MAX   64        // bytes of a value
#define IDENT_MIN  15        // columns; an IMEI
#define NAME_MIN   12        // columns at least, in a line
#define NAME_WIDTH 20        // columns at most, on the screen
#define RECENT     600000000 // microseconds for which an alarm is highlighted

#define PLAIN   ""
#define BOLD    "1"
#define REVERSE "7"
#define ALARM   "1;31"

// --- values ---

static const char *position_text(double latitude, double longitude, char out[CELL_MAX]) {
    snprintf(out, CELL_MAX, "-");
    if (!isnan(latitude) && !isnan(longitude))
        snprintf(out, CELL_MAX, "%.5f,%.5f", latitude, longitude);
    return out;
}

static const char *number_text(const char *format, double number, char out[CELL_MAX]) {
    snprintf(out, CELL_MAX, "-");
    if (!isnan(number))
        snprintf(out, CELL_MAX, strcmp(format, "V") == 0 ? "%.2f %s" : "%.0f %s", number, format);
    return out;
}

static const char *or_dash(const char *text) {
    return *text != '\0' ? text : "-";
}

// A name that only repeats the ident says nothing.
static const char *name_text(const char *name, const char *ident) {
    return *name != '\0' && strcmp(name, ident) != 0 ? name : "-";
}

// --- one line per message ---

void view_line(struct line *line, const struct report *report) {
    char time[WHEN_MAX], position[CELL_MAX], speed[CELL_MAX], battery[CELL_MAX];
    const char *name = name_text(report->name, report->ident);
    int blanks = NAME_MIN - line_columns(name);
    line->length = 0;
    line_add(line, "%s  %-15s  %s%*s  %-20s  %8s  %7s  %s", when_time(report->received, time), report->ident,
             name, blanks > 0 ? blanks : 0, "", position_text(report->latitude, report->longitude, position),
             number_text("km/h", report->speed, speed), number_text("V", report->battery, battery),
             or_dash(report->event));
}

// --- the screen ---

struct screen {
    FILE *out;
    int rows, columns; // rows: those still free
    int64_t now;
    int ident, name; // widths
};

// The last row gets no newline, or the terminal would scroll.
static void put_line(struct screen *screen, struct line *line, const char *look) {
    if (screen->rows <= 0)
        return;
    line_cut(line, screen->columns);
    fprintf(screen->out, "\033[0;%sm%s\033[0m%s%s", look, line->text,
            line_columns(line->text) < screen->columns ? "\033[K" : "", --screen->rows > 0 ? "\r\n" : "");
}

static const char *const titles[] = {"AGO",   "IDENT",   "NAME",     "CONN",
                                     "SPEED", "BATTERY", "POSITION", "LAST EVENT"};

static void put_header(struct screen *screen, const struct fleet *fleet, const struct view_status *status,
                       const struct view_choice *choice) {
    struct line line = {.length = 0};
    line_add(&line, "%s: %s  %zu device%s, %zu connected  %.1f messages/s", status->broker, status->state,
             fleet->count, TEXT_S(fleet->count), fleet->connected, status->rate);
    if (status->odd > 0)
        line_add(&line, "  %llu not understood", status->odd);
    if (choice->order != ORDER_HEARD || choice->reversed)
        line_add(&line, "  by %s%s", titles[choice->order], choice->reversed ? ", reversed" : "");
    line_cell(&line, "",
              screen->columns - line_columns(line.text) > 0 ? screen->columns - line_columns(line.text) : 0);
    put_line(screen, &line, REVERSE);
    line.length = 0;
    line_add(&line, "%s", status->note != NULL ? status->note : "");
    if (line.length > 0)
        put_line(screen, &line, BOLD);
}

// The columns of titles and rows.
static void put_cells(struct screen *screen, const char *const cells[8], const char *look) {
    struct line line = {.length = 0};
    const int widths[] = {-6, screen->ident, screen->name, 4, -8, -7, 20};
    for (size_t i = 0; i < 7; i++) {
        if (widths[i] == 0)
            continue;
        line_cell(&line, cells[i], widths[i]);
        line_add(&line, "  ");
    }
    line_add(&line, "%s", cells[7]);
    put_line(screen, &line, look);
}

// What the last message says, and what was notable before it, with its age.
static void tell_event(const struct fleet_device *device, int64_t now, struct line *event) {
    char age[WHEN_MAX];
    event->length = 0;
    line_add(event, "%s", device->event);
    if (*device->notable == '\0' || strcmp(device->notable, device->event) == 0)
        return;
    line_add(event, "; %s %s ago", device->notable, when_age(now - device->notable_at, age));
}

static void put_device(struct screen *screen, const struct fleet_device *device) {
    static const char *const connections[] = {
        [FLEET_UNKNOWN] = "-", [FLEET_CONNECTED] = "on", [FLEET_DISCONNECTED] = "off"};
    char age[WHEN_MAX] = "-", position[CELL_MAX], speed[CELL_MAX], battery[CELL_MAX];
    struct line event;
    if (device->heard > 0)
        when_age(screen->now - device->heard, age);
    tell_event(device, screen->now, &event);
    const char *const cells[] = {age,
                                 device->ident,
                                 name_text(device->name, device->ident),
                                 connections[device->connection],
                                 number_text("km/h", device->speed, speed),
                                 number_text("V", device->battery, battery),
                                 position_text(device->latitude, device->longitude, position),
                                 or_dash(event.text)};
    bool alarm = device->alarm && screen->now - device->notable_at < RECENT;
    put_cells(screen, cells, alarm ? ALARM : PLAIN);
}

// Columns are as wide as what is visible; without names there is no column for them.
static void measure(struct screen *screen, const struct fleet_device *const *devices, size_t count) {
    screen->ident = IDENT_MIN;
    screen->name = 0;
    for (size_t i = 0; i < count; i++) {
        int ident = line_columns(devices[i]->ident);
        int name = line_columns(name_text(devices[i]->name, devices[i]->ident));
        screen->ident = ident > screen->ident ? ident : screen->ident;
        screen->name = name > screen->name ? name : screen->name;
    }
    if (screen->name == 1) // "-" in each
        screen->name = 0;
    else
        screen->name = screen->name < 4 ? 4 : screen->name < NAME_WIDTH ? screen->name : NAME_WIDTH;
}

// As many devices as fit: when not all do, the last row says which these are.
static void put_devices(struct screen *screen, struct fleet *fleet, struct view_choice *choice) {
    size_t count, room = screen->rows > 1 ? (size_t)screen->rows - 1 : 0;
    const struct fleet_device **devices = order_devices(fleet, choice->order, choice->reversed, &count);
    choice->page = count > room && room > 0 ? room - 1 : room;
    size_t shown = count < choice->page ? count : choice->page;
    choice->first = choice->first < count - shown ? choice->first : count - shown;
    measure(screen, devices + choice->first, shown);
    put_cells(screen, titles, BOLD);
    for (size_t i = 0; i < shown; i++)
        put_device(screen, devices[choice->first + i]);
    free(devices);
    if (shown < count) {
        struct line line = {.length = 0};
        line_add(&line, "%zu to %zu of %zu; ? shows the keys", choice->first + (shown > 0),
                 choice->first + shown, count);
        put_line(screen, &line, PLAIN);
    }
}

static void put_nothing(struct screen *screen, const struct view_status *status) {
    struct line line = {.length = 0};
    if (status->device != NULL)
        line_add(&line, "Nothing has come from %s yet.", status->device);
    else
        line_add(&line, "Nothing has come yet.");
    put_line(screen, &line, PLAIN);
}

static void put_help(struct screen *screen) {
    static const char *const texts[] = {
        "",
        "  Up, Down, k, j          one device up or down",
        "  Page Up, Page Down,",
        "  b, Space                one page",
        "  Home, End, g, G         the first, the last",
        "  s                       order by the next column: AGO, IDENT, NAME, CONN, SPEED, BATTERY",
        "  r                       reverse the order",
        "  q, Ctrl-C               quit",
        "  ?                       this; any other key goes back",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct line line = {.length = 0};
        line_add(&line, "%s", texts[i]);
        put_line(screen, &line, PLAIN);
    }
}

void view_screen(FILE *out, struct fleet *fleet, const struct view_status *status, struct view_choice *choice,
                 int rows, int columns, int64_t now) {
    struct screen screen = {.out = out, .rows = rows, .columns = columns, .now = now};
    fputs("\033[H", out);
    put_header(&screen, fleet, status, choice);
    if (choice->help)
        put_help(&screen);
    else if (fleet->count > 0)
        put_devices(&screen, fleet, choice);
    else
        put_nothing(&screen, status);
    if (screen.rows > 0)
        fputs("\033[J", out);
}
