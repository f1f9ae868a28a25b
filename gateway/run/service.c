// Telling a service manager; see service.h. The protocol is a datagram with a line of text, which systemd promises to keep and
// describes for programs that do without libsystemd: that library would bring compression and cryptography along.
#include "gateway/run/service.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "gateway/base/log.h"

uint32_t service_clock(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint32_t)(time.tv_sec * 1000LL + time.tv_nsec / 1000000);
}

// 0, or an error number. Nobody may block the loop: a manager that is so far behind does without this line.
static int send_line(const struct sockaddr_un *address, socklen_t size, const char *line) {
    int handle = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (handle < 0)
        return errno;
    ssize_t sent = sendto(handle, line, strlen(line), MSG_NOSIGNAL, (const struct sockaddr *)address, size);
    int error = sent < 0 ? errno : 0;
    close(handle);
    return error;
}

static int send_to(const char *path, const char *line) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length >= sizeof address.sun_path)
        return ENAMETOOLONG;
    memcpy(address.sun_path, path, length);
    if (*path == '@') // an abstract socket, which has no file
        address.sun_path[0] = '\0';
    return send_line(&address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length), line);
}

void service_tell(const char *line) {
    const char *path = getenv("NOTIFY_SOCKET");
    if (path == NULL || *path == '\0')
        return;
    int error = send_to(path, line);
    if (error != 0)
        log_warning("the service manager cannot be told %s: %s", line, strerror(error));
}

uint64_t service_patience(void) {
    const char *microseconds = getenv("WATCHDOG_USEC"), *process = getenv("WATCHDOG_PID");
    if (microseconds == NULL || getenv("NOTIFY_SOCKET") == NULL)
        return 0;
    if (process != NULL && strtoll(process, NULL, 10) != getpid())
        return 0;
    return strtoull(microseconds, NULL, 10) / 1000;
}

uint32_t service_silence(const struct sign *sign, uint32_t now) {
    int32_t silence = (int32_t)(now - sign->last);
    return silence > 0 ? (uint32_t)silence : 0;
}

static void give_sign(struct sign *sign) {
    sign->last = service_clock();
    sign->ready = true;
}

static void on_timer(uv_timer_t *timer) {
    struct service *service = timer->data;
    if (service->sign != NULL)
        give_sign(service->sign);
    else
        service_tell("WATCHDOG=1");
}

void service_ready(struct service *service, uv_loop_t *loop, struct sign *sign) {
    uint64_t interval = sign != NULL ? sign->interval : service_patience() / 2;
    service->sign = sign;
    uv_timer_init(loop, &service->timer);
    service->timer.data = service;
    if (sign != NULL)
        give_sign(sign);
    else
        service_tell("READY=1");
    if (interval > 0)
        uv_timer_start(&service->timer, on_timer, interval, interval);
    uv_unref((uv_handle_t *)&service->timer);
}

void service_stopping(struct service *service) {
    if (service->timer.data != NULL && service->sign == NULL)
        service_tell("STOPPING=1");
}

void service_end(struct service *service) {
    if (service->timer.data != NULL)
        uv_close((uv_handle_t *)&service->timer, NULL);
}
