/* floor: the least that a WebSocket server can do, to compare servers with.

   floor PORT

   One thread, epoll, 127.0.0.1 only.  /echo sends back, /broadcast sends a message
   to all that are connected there, and /publish to all at /listen, who are told when
   they are among them.  It trusts its client to be wsload: no limits, no fragments,
   no UTF-8, and an answer to wsload's Sec-WebSocket-Key only. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "frame.h"

#define MOST_CLIENTS 65536
#define EVENTS 256
#define ANSWER \
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" \
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"

#define JOINED "\x81\x06joined"

struct buffer {
    unsigned char *bytes;
    size_t filled, capacity;
};

struct client {
    int fd;
    bool open, broadcasts, listens;
    struct buffer in, out;             /* out: what the socket did not take yet */
};

static struct client *clients[MOST_CLIENTS];
static int poller, highest;
static struct buffer answer;           /* to one turn's messages, sent at once */

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void reserve(struct buffer *buffer, size_t size)
{
    if (buffer->capacity - buffer->filled >= size)
        return;
    while (buffer->capacity - buffer->filled < size)
        buffer->capacity = buffer->capacity ? 2 * buffer->capacity : 1024;
    buffer->bytes = realloc(buffer->bytes, buffer->capacity);
    if (buffer->bytes == NULL)
        die("realloc");
}

static void append(struct buffer *buffer, const void *bytes, size_t size)
{
    reserve(buffer, size);
    memcpy(buffer->bytes + buffer->filled, bytes, size);
    buffer->filled += size;
}

static void discard(struct buffer *buffer, size_t size)
{
    memmove(buffer->bytes, buffer->bytes + size, buffer->filled - size);
    buffer->filled -= size;
}

static void watch(struct client *c, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = c->fd};
    if (epoll_ctl(poller, operation, c->fd, &event))
        die("epoll_ctl");
}

static void end(struct client *c)
{
    clients[c->fd] = NULL;
    close(c->fd);
    free(c->in.bytes);
    free(c->out.bytes);
    free(c);
}

static void put(struct client *c, const unsigned char *bytes, size_t size)
{
    ssize_t written = 0;
    if (c->out.filled == 0)
        written = send(c->fd, bytes, size, MSG_NOSIGNAL);
    if (written < 0)
        written = 0;                   /* a broken connection shows when it is read */
    if ((size_t)written == size)
        return;
    if (c->out.filled == 0)
        watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    append(&c->out, bytes + written, size - written);
}

static void put_rest(struct client *c)
{
    ssize_t written = send(c->fd, c->out.bytes, c->out.filled, MSG_NOSIGNAL);
    if (written > 0)
        discard(&c->out, written);
    if (c->out.filled == 0)
        watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

static void put_to_all(const struct buffer *message)
{
    for (int fd = 0; fd <= highest; fd++)
        if (clients[fd] != NULL && clients[fd]->listens)
            put(clients[fd], message->bytes, message->filled);
}

/* Unmasking and copying are one pass, over eight bytes at a time. */
static void unmask(unsigned char *to, const unsigned char *from, size_t size, const void *mask)
{
    uint64_t word, key;
    size_t i = 0;
    memcpy(&key, mask, 4);
    memcpy((char *)&key + 4, mask, 4);
    for (; i + 8 <= size; i += 8) {
        memcpy(&word, from + i, 8);
        word ^= key;
        memcpy(to + i, &word, 8);
    }
    for (; i < size; i++)
        to[i] = from[i] ^ ((const unsigned char *)mask)[i & 3];
}

/* Whether the connection goes on. */
static bool answer_messages(struct client *c)
{
    size_t position = 0;
    struct head head = {0};
    answer.filled = 0;
    for (;;) {
        size_t size = read_head(c->in.bytes + position, c->in.filled - position, &head);
        if (size == 0 || c->in.filled - position < size + head.length)
            break;
        reserve(&answer, LONGEST_HEAD + head.length);
        unsigned char *to = answer.bytes + answer.filled;
        size_t written = write_head(to, head.opcode, false, head.length);
        unmask(to + written, c->in.bytes + position + size, head.length, head.mask);
        answer.filled += written + head.length;
        position += size + head.length;
        if (head.opcode == CLOSE)
            break;
    }
    discard(&c->in, position);
    bool goes_on = position == 0 || head.opcode != CLOSE;
    if (c->broadcasts && goes_on)
        put_to_all(&answer);
    else if (answer.filled)
        put(c, answer.bytes, answer.filled);
    return goes_on;
}

static void answer_handshake(struct client *c)
{
    unsigned char *found = memmem(c->in.bytes, c->in.filled, "\r\n\r\n", 4);
    if (found == NULL)
        return;
    bool both = !memcmp(c->in.bytes, "GET /broadcast ", 15);
    c->broadcasts = both || !memcmp(c->in.bytes, "GET /publish ", 13);
    c->listens = both || !memcmp(c->in.bytes, "GET /listen ", 12);
    c->open = true;
    discard(&c->in, found + 4 - c->in.bytes);
    put(c, (const unsigned char *)ANSWER, sizeof ANSWER - 1);
    if (c->listens && !both)
        put(c, (const unsigned char *)JOINED, sizeof JOINED - 1);
}

static void read_from(struct client *c)
{
    reserve(&c->in, 1024);
    size_t room = c->in.capacity - c->in.filled;
    ssize_t size = recv(c->fd, c->in.bytes + c->in.filled, room, 0);
    if (size < 0 && errno == EAGAIN)
        return;
    if (size <= 0) {
        end(c);
        return;
    }
    c->in.filled += size;
    if (!c->open)
        answer_handshake(c);
    else if (!answer_messages(c))
        end(c);
}

static void take_client(int listener)
{
    int one = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    if (fd < 0 || fd >= MOST_CLIENTS)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct client *c = calloc(1, sizeof *c);
    if (c == NULL)
        die("calloc");
    c->fd = fd;
    clients[fd] = c;
    if (fd > highest)
        highest = fd;
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
}

static int listen_on(int port)
{
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096))
        die("listen");
    return listener;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fputs("usage: floor PORT\n", stderr);
        return 2;
    }
    int listener = listen_on(atoi(argv[1]));
    poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[EVENTS];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int number = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < number; i++) {
            struct client *c = clients[events[i].data.fd];
            if (events[i].data.fd == listener) {
                take_client(listener);
                continue;
            }
            if (c != NULL && events[i].events & EPOLLOUT)
                put_rest(c);
            if (c != NULL && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                read_from(c);
        }
    }
}
