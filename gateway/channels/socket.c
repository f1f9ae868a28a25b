// What the sockets of TCP and UDP have in common; see socket.h.
#include "gateway/channels/socket.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "gateway/base/address.h"

#define PROBES_MAX 127 // that the system allows
#define MARGIN     60  // seconds that the system is more patient than the gateway

int socket_name(const uv_handle_t *handle, char *text) {
    struct sockaddr_storage name;
    socklen_t length = sizeof name;
    int descriptor, result = uv_fileno(handle, &descriptor);
    if (result != 0)
        return result;
    if (getsockname(descriptor, (struct sockaddr *)&name, &length) != 0)
        return -errno;
    address_write((struct sockaddr *)&name, text);
    return 0;
}

static void set_number(int descriptor, int level, int option, int number) {
    setsockopt(descriptor, level, option, &number, sizeof number);
}

// The system goes by the user timeout, also while it probes; where it did not, the probes outlast
// idle_timeout as well.
void socket_be_patient(const uv_tcp_t *socket, int keepalive, int idle_timeout) {
    int descriptor, patience = idle_timeout + MARGIN;
    int interval = keepalive > patience / PROBES_MAX ? keepalive : patience / PROBES_MAX + 1;
    if (uv_fileno((const uv_handle_t *)socket, &descriptor) != 0)
        return;
    set_number(descriptor, IPPROTO_TCP, TCP_USER_TIMEOUT, patience * 1000);
    if (keepalive == 0)
        return;
    set_number(descriptor, IPPROTO_TCP, TCP_KEEPIDLE, keepalive);
    set_number(descriptor, IPPROTO_TCP, TCP_KEEPINTVL, interval);
    set_number(descriptor, IPPROTO_TCP, TCP_KEEPCNT,
               patience / interval < PROBES_MAX ? patience / interval + 1 : PROBES_MAX);
    set_number(descriptor, SOL_SOCKET, SO_KEEPALIVE, 1);
}

// The system gives each connection, and each device's datagrams, to one of the sockets.
int socket_share_port(const uv_handle_t *handle) {
    int descriptor, on = 1;
    int result = uv_fileno(handle, &descriptor);
    if (result == 0 && setsockopt(descriptor, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) != 0)
        result = -errno;
    return result;
}
