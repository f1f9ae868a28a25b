// What the sockets of TCP and UDP have in common.
#pragma once

#include <uv.h>

// Lets other processes listen on the same port; before the socket is bound. 0 or an error of libuv.
int socket_share_port(const uv_handle_t *handle);

// Lets limits.idle_timeout alone decide when a connection that the network does not carry is given up: the
// system keeps what was sent and tries again until a little later. keepalive: seconds of silence between
// probes; 0: none.
void socket_be_patient(const uv_tcp_t *socket, int keepalive, int idle_timeout);

// The address that a socket has, into "ip:port" of ADDRESS_TEXT_MAX bytes. 0 or an error of libuv.
int socket_name(const uv_handle_t *handle, char *text);
