// trackbus-load: devices that send reports to a gateway, as fast as it takes them or at a given rate; see the
// help text in course.c.
//
// A device whose socket takes no more waits until what it has begun to write is written: the load is never
// more than the gateway reads.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/course.h"

#define SEND_BUFFER  32768       // bytes of a connection
#define PENDING_MAX  512         // connections that are being made at once
#define PER_ADDRESS  500         // connections from one source address
#define TURN         1000000     // nanoseconds that a turn of sending may take
#define TURN_BATCHES 64          // batches between two looks at the clock
#define FIRST_OCTETS 0x7F000101U // 127.0.1.1, where devices come from

struct device {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_udp_t udp;
    } socket;
    unsigned number, count; // reports sent
    uint64_t asked;         // when what was not answered yet was written; 0: nothing
    bool connected, writing;
};

struct writing {
    uv_write_t request;
    struct device *device;
    char bytes[];
};

static struct course course;
static struct device *devices;
static unsigned begun, pending, next_device;

// --- writing ---

static void end_device(struct device *device, const char *why) {
    if (uv_is_closing(&device->socket.handle))
        return;
    if (course.closed++ == 0)
        fprintf(stderr, "device %u lost its connection: %s\n", device->number, why);
    device->connected = false;
    uv_close(&device->socket.handle, NULL);
}

static void on_written(uv_write_t *request, int status) {
    struct writing *writing = (struct writing *)request;
    writing->device->writing = false;
    if (status < 0)
        end_device(writing->device, uv_strerror(status));
    free(writing);
}

static void write_rest(struct device *device, const uint8_t *bytes, size_t length) {
    struct writing *writing = malloc(sizeof *writing + length);
    if (writing == NULL)
        course_fail("out of memory");
    memcpy(writing->bytes, bytes, length);
    writing->device = device;
    device->writing = true;
    uv_buf_t buffer = uv_buf_init(writing->bytes, (unsigned)length);
    if (uv_write(&writing->request, &device->socket.stream, &buffer, 1, on_written) != 0)
        course_fail("cannot write");
}

// False when the socket takes no more for now.
static bool write_bytes(struct device *device, const uint8_t *bytes, size_t length) {
    uv_buf_t buffer = uv_buf_init((char *)bytes, (unsigned)length);
    if (course.options.udp)
        return uv_udp_try_send(&device->socket.udp, &buffer, 1, NULL) >= 0;
    int written = uv_try_write(&device->socket.stream, &buffer, 1);
    if (written < 0 && written != UV_EAGAIN) {
        end_device(device, uv_strerror(written));
        return false;
    }
    size_t done = written > 0 ? (size_t)written : 0;
    if (done < length)
        write_rest(device, bytes + done, length - done);
    return true;
}

static size_t make_report(struct device *device, uint64_t now, uint8_t *bytes) {
    const struct reports *reports = course.reports;
    const struct pattern *pattern = device->count == 0
                                        ? &reports->login
                                        : &reports->device[(device->number + device->count) % reports->count];
    bool segments = course.options.segments;
    unsigned sequence = segments ? (device->number + device->count) % REPORT_NUMBERS
                                 : REPORT_FIRST + device->count % REPORT_SEQUENCES;
    device->count++;
    course_note(&course, device->number, sequence, now);
    return (segments ? pattern_write_segment : pattern_write)(pattern, device->number, sequence, bytes);
}

static bool send_reports(struct device *device, size_t count) {
    static uint8_t bytes[64 * REPORT_MAX];
    uint64_t now = bench_clock();
    size_t length = 0;
    for (size_t i = 0; i < count; i++)
        length += make_report(device, now, bytes + length);
    if (device->asked == 0)
        device->asked = now;
    return write_bytes(device, bytes, length);
}

static void send_all(struct course *of) {
    size_t allowance = course_allowance(of), batches = 0, count;
    uint64_t end = bench_clock() + TURN;
    for (unsigned idle = 0; allowance > 0 && idle < of->options.devices; allowance -= count) {
        struct device *device = &devices[next_device++ % of->options.devices];
        count = 0;
        idle++;
        if (!device->connected || device->writing)
            continue;
        count = allowance < of->options.batch ? allowance : of->options.batch;
        if (!send_reports(device, count) || (++batches % TURN_BATCHES == 0 && bench_clock() > end))
            return;
        idle = 0;
    }
}

// --- connecting ---

static void give_buffer(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer) {
    static char memory[65536]; // what the gateway answers is not looked at, only when
    *buffer = uv_buf_init(memory, sizeof memory);
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer) {
    struct device *device = stream->data;
    if (count < 0)
        end_device(device, uv_strerror((int)count));
    if (count <= 0)
        return;
    if (device->asked != 0)
        course_note_answer(&course, device->asked);
    device->asked = 0;
}

static void become_connected(struct device *device) {
    device->connected = true;
    course.connected++;
    send_reports(device, 1 + course.options.buffered); // the first says who it is
}

static void on_connected(uv_connect_t *request, int status) {
    struct device *device = request->handle->data;
    free(request);
    pending--;
    if (status < 0)
        course_fail("device %u cannot connect: %s", device->number, uv_strerror(status));
    uv_tcp_nodelay(&device->socket.tcp, 1);
    uv_read_start(&device->socket.stream, give_buffer, on_read);
    become_connected(device);
}

static struct sockaddr_in address_of(uint32_t ip, int port) {
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(ip)};
}

// Only then can the devices have addresses of their own.
static bool is_here(const struct sockaddr_in *gateway) {
    return ntohl(gateway->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
}

static int connect_tcp(struct device *device, const struct sockaddr_in *source,
                       const struct sockaddr_in *gateway) {
    uv_connect_t *request = malloc(sizeof *request);
    if (request == NULL)
        course_fail("out of memory");
    uv_tcp_init(&course.loop, &device->socket.tcp);
    device->socket.handle.data = device;
    // With the system's usual megabytes filling them would be most of the work.
    int size = SEND_BUFFER;
    int result = is_here(gateway) ? uv_tcp_bind(&device->socket.tcp, (const struct sockaddr *)source, 0) : 0;
    if (result == 0)
        result = uv_send_buffer_size(&device->socket.handle, &size);
    pending++;
    return result != 0
               ? result
               : uv_tcp_connect(request, &device->socket.tcp, (const struct sockaddr *)gateway, on_connected);
}

static int connect_udp(struct device *device, const struct sockaddr_in *source,
                       const struct sockaddr_in *gateway) {
    uv_udp_init(&course.loop, &device->socket.udp);
    device->socket.handle.data = device;
    int result = is_here(gateway) ? uv_udp_bind(&device->socket.udp, (const struct sockaddr *)source, 0) : 0;
    if (result == 0)
        result = uv_udp_connect(&device->socket.udp, (const struct sockaddr *)gateway);
    if (result == 0)
        become_connected(device);
    return result;
}

static void begin_device(struct device *device) {
    struct sockaddr_in gateway;
    struct sockaddr_in source = address_of(FIRST_OCTETS + device->number / PER_ADDRESS, 0);
    if (uv_ip4_addr(course.options.host, course.options.port, &gateway) != 0)
        course_fail("'%s': an IPv4 address was expected", course.options.host);
    int result =
        course.options.udp ? connect_udp(device, &source, &gateway) : connect_tcp(device, &source, &gateway);
    if (result != 0)
        course_fail("device %u cannot connect: %s", device->number, uv_strerror(result));
}

static void connect_more(struct course *of) {
    double due = (double)(bench_clock() - of->phase_began) / 1e9 * of->options.ramp;
    while (begun < of->options.devices && pending < PENDING_MAX &&
           (of->options.ramp == 0 || (double)begun < due)) {
        devices[begun].number = begun;
        begin_device(&devices[begun++]);
    }
}

static bool all_connected(struct course *of) {
    return of->connected == of->options.devices;
}

static void finish(struct course *of) {
    if (of->options.hold)
        return; // nothing more is sent, and the connections stay
    for (unsigned i = 0; i < of->options.devices; i++)
        if (devices[i].connected)
            uv_close(&devices[i].socket.handle, NULL);
}

int main(int argc, char **argv) {
    static const struct course_actor actor = {
        .connect = connect_more, .is_ready = all_connected, .send = send_all, .finish = finish};
    course_begin(&course, argc, argv, &actor);
    if (course.options.port == 0)
        course_fail("the port of the gateway is missing: --port N");
    devices = calloc(course.options.devices, sizeof *devices);
    if (devices == NULL)
        course_fail("out of memory");
    return course_run(&course);
}
