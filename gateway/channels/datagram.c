// Datagrams with both of their ends; see datagram.h. libuv's own do not have ours.
#include "gateway/channels/datagram.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define DATAGRAM_MAX  65536
#define CONTROL_SPACE CMSG_SPACE(sizeof(struct in6_pktinfo))

union control {
    struct cmsghdr header; // for its alignment
    unsigned char bytes[CONTROL_SPACE];
};

// --- opening ---

static int prepare(int descriptor, const struct sockaddr_storage *address, bool shared) {
    bool six = address->ss_family == AF_INET6;
    int on = 1;
    socklen_t length = six ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    if (shared && setsockopt(descriptor, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) != 0)
        return -errno;
    if (setsockopt(descriptor, six ? IPPROTO_IPV6 : IPPROTO_IP, six ? IPV6_RECVPKTINFO : IP_PKTINFO, &on,
                   sizeof on) != 0)
        return -errno;
    return bind(descriptor, (const struct sockaddr *)address, length) == 0 ? 0 : -errno;
}

int datagram_open(const struct sockaddr_storage *address, bool shared) {
    int descriptor = socket(address->ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int result = descriptor >= 0 ? prepare(descriptor, address, shared) : -errno;
    if (result == 0)
        return descriptor;
    if (descriptor >= 0)
        close(descriptor);
    return result;
}

// --- receiving ---

static void read_local(struct msghdr *header, struct datagram_ends *ends) {
    for (struct cmsghdr *part = CMSG_FIRSTHDR(header); part != NULL; part = CMSG_NXTHDR(header, part)) {
        bool four = part->cmsg_level == IPPROTO_IP && part->cmsg_type == IP_PKTINFO;
        bool six = part->cmsg_level == IPPROTO_IPV6 && part->cmsg_type == IPV6_PKTINFO;
        if (four)
            memcpy(&ends->local.four, CMSG_DATA(part), sizeof ends->local.four);
        if (six)
            memcpy(&ends->local.six, CMSG_DATA(part), sizeof ends->local.six);
        ends->has_local = ends->has_local || four || six;
    }
}

int datagram_receive(int descriptor, datagram_fn *take, void *context) {
    static uint8_t bytes[DATAGRAM_MAX];
    union control control;
    struct datagram_ends ends = {.has_local = false};
    struct iovec vector = {.iov_base = bytes, .iov_len = sizeof bytes};
    struct msghdr header = {.msg_name = &ends.remote,
                            .msg_namelen = sizeof ends.remote,
                            .msg_iov = &vector,
                            .msg_iovlen = 1,
                            .msg_control = control.bytes,
                            .msg_controllen = CONTROL_SPACE};
    ssize_t length = recvmsg(descriptor, &header, MSG_DONTWAIT);
    if (length < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -errno;
    read_local(&header, &ends);
    take(context, &ends, bytes, (size_t)length);
    return 1;
}

// --- sending ---

static void add_part(struct msghdr *header, int level, int type, const void *data, size_t length) {
    header->msg_controllen = CMSG_SPACE(length);
    struct cmsghdr *part = CMSG_FIRSTHDR(header);
    part->cmsg_level = level;
    part->cmsg_type = type;
    part->cmsg_len = CMSG_LEN(length);
    memcpy(CMSG_DATA(part), data, length);
}

static int send_from(int descriptor, const struct datagram_ends *ends, struct iovec *vector, bool local) {
    union control control = {0};
    bool six = ends->remote.ss_family == AF_INET6;
    struct msghdr header = {.msg_name = (void *)&ends->remote,
                            .msg_namelen = six ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in),
                            .msg_iov = vector,
                            .msg_iovlen = 1,
                            .msg_control = local ? control.bytes : NULL};
    struct in_pktinfo four = {.ipi_ifindex = ends->local.four.ipi_ifindex,
                              .ipi_spec_dst = ends->local.four.ipi_spec_dst};
    if (local && six)
        add_part(&header, IPPROTO_IPV6, IPV6_PKTINFO, &ends->local.six, sizeof ends->local.six);
    else if (local)
        add_part(&header, IPPROTO_IP, IP_PKTINFO, &four, sizeof four);
    return sendmsg(descriptor, &header, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0 ? 0 : -errno;
}

// The address, or the interface, may be gone since, or be one for many that nothing can be sent from.
int datagram_send(int descriptor, const struct datagram_ends *ends, const uint8_t *bytes, size_t length) {
    struct iovec vector = {.iov_base = (void *)bytes, .iov_len = length};
    int result = send_from(descriptor, ends, &vector, ends->has_local);
    bool gone = result == -EINVAL || result == -ENODEV || result == -EADDRNOTAVAIL || result == -ENETUNREACH;
    return ends->has_local && gone ? send_from(descriptor, ends, &vector, false) : result;
}
