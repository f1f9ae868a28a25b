// What the sockets of TCP and UDP have in common; see socket.h.
#include "gateway/channels/socket.h"

#include <errno.h>
#include <sys/socket.h>

#include "gateway/base/address.h"

int socket_name(const uv_handle_t *handle, char *text) {
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
int socket_share_port(const uv_handle_t *handle) {
    int descriptor, on = 1;
    int result = uv_fileno(handle, &descriptor);
    if (result == 0 && setsockopt(descriptor, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) != 0)
        result = -errno;
    return result;
}
