/* wsload: a WebSocket load generator.  One thread, epoll, 127.0.0.1 only.

   wsload echo PORT CONNECTIONS SIZE IN_FLIGHT SECONDS text|binary
       keeps IN_FLIGHT messages under way on each connection to /echo
   wsload broadcast PORT CONNECTIONS SIZE SECONDS
       one connection to /broadcast sends a message; when all have it, the next
   wsload connect PORT AT_ONCE SECONDS
       handshake, Close, end of the connection, and again
   wsload hold PORT CONNECTIONS SIZE
       one echo on each connection, which then stays open
   wsload fanout PORT[,PORT…] CONNECTIONS SIZE IN_FLIGHT SECONDS text|socketio
       one more connection, to /publish on the first port, sends numbered messages;
       when all at /listen, over all ports, have one, the next.  Each listener has to
       get each message once and in order, and nothing else.  With "socketio" both
       are clients of Socket.IO, and the messages its events "publish" and "message"

   It prints "ready", waits for a line on stdin, does the work, prints one line
   of JSON, and holds its connections until the next line or the end of stdin,
   so that whoever started it can look at the server before and after.
   Opcode and length of every message are checked, and the handshake's answer. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "frame.h"

/* The pair of RFC 6455 section 1.3, so that no SHA-1 is needed here. */
#define KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

/* Below the backlog of 100 that asyncio's servers listen with. */
#define OPENED_AT_ONCE 64
#define STALL_MS 10000
#define LONGEST_RUN 300
#define EVENTS 512
/* Latencies are counted in microseconds, up to one second. */
#define LATENCIES 1000000

enum state { UNUSED, CONNECTING, HANDSHAKING, OPEN, CLOSING };

struct connection {
    int fd;
    enum state state;
    bool blocked;                      /* waits to write */
    unsigned char *in;
    size_t filled;
    size_t to_send, position;          /* bytes still to send, place in `frames` */
    uint64_t *sent_at;                 /* a ring of `in_flight` times */
    unsigned sent, received;
    int port;                          /* this and the path: those of `options`, if not set */
    const char *path;
};

static struct {
    int port, connections, in_flight, opcode;
    size_t size;
    double seconds;
    const char *path;
    bool socketio;
} options = {.in_flight = 1, .opcode = TEXT, .path = "/echo"};

static struct connection *connections;
static int poller;
static unsigned char *frames;          /* one message, `in_flight` times */
static size_t frame_size, capacity;
static int opened;
static uint64_t count;
static uint32_t latencies[LATENCIES];

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static void *allocate(size_t members, size_t size)
{
    void *memory = calloc(members, size);
    if (memory == NULL)
        fail("out of memory");
    return memory;
}

static void make_frames(void)
{
    static const unsigned char mask[4] = {0x12, 0x34, 0x56, 0x78};
    frames = allocate(options.in_flight, options.size + LONGEST_HEAD);
    size_t head = write_head(frames, options.opcode, true, options.size);
    memcpy(frames + head, mask, 4);
    head += 4;
    for (size_t i = 0; i < options.size; i++)
        frames[head + i] = ('a' + i % 26) ^ mask[i & 3];
    frame_size = head + options.size;
    for (int i = 1; i < options.in_flight; i++)
        memcpy(frames + i * frame_size, frames, frame_size);
    capacity = options.in_flight * frame_size + 4096;
}

static void watch(struct connection *c, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, operation, c->fd, &event))
        fail("epoll_ctl: %s", strerror(errno));
}

static void flush(struct connection *c)
{
    while (c->to_send) {
        size_t size = options.in_flight * frame_size - c->position;
        if (size > c->to_send)
            size = c->to_send;
        ssize_t written = send(c->fd, frames + c->position, size, MSG_NOSIGNAL);
        if (written < 0) {
            if (errno != EAGAIN)
                fail("send: %s", strerror(errno));
            if (!c->blocked)
                watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            c->blocked = true;
            return;
        }
        c->to_send -= written;
        c->position = (c->position + written) % frame_size;
    }
    if (c->blocked)
        watch(c, EPOLL_CTL_MOD, EPOLLIN);
    c->blocked = false;
}

static void send_messages(struct connection *c, int number)
{
    uint64_t time = now();
    for (int i = 0; i < number; i++)
        c->sent_at[c->sent++ % options.in_flight] = time;
    c->to_send += number * frame_size;
    flush(c);
}

/* The number of messages that have come in full. */
static int take_messages(struct connection *c)
{
    size_t position = 0;
    int messages = 0;
    struct head head;
    for (;;) {
        size_t size = read_head(c->in + position, c->filled - position, &head);
        if (size == 0)
            break;
        bool data = head.opcode < CLOSE;
        if (head.opcode == CLOSE)
            fail("the server sent a Close");
        if (head.masked || !head.fin)
            fail("the server sent a masked or fragmented frame");
        if (data && (head.opcode != options.opcode || head.length != options.size))
            fail("opcode %d and %lu bytes came back", head.opcode, (unsigned long)head.length);
        if (c->filled - position < size + head.length)
            break;
        position += size + head.length;
        messages += data;
    }
    if (position) {
        memmove(c->in, c->in + position, c->filled - position);
        c->filled -= position;
    }
    return messages;
}

static void receive(struct connection *c)
{
    ssize_t size = recv(c->fd, c->in + c->filled, capacity - c->filled, 0);
    if (size > 0)
        c->filled += size;
    else if (size == 0)
        fail("the server ended the connection");
    else if (errno != EAGAIN)
        fail("recv: %s", strerror(errno));
}

static void start(struct connection *c)
{
    int one = 1;
    if (c->path == NULL) {
        c->path = options.path;
        c->port = options.port;
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(c->port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0)
        fail("socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    if (c->in == NULL) {
        c->in = allocate(1, capacity);
        c->sent_at = allocate(options.in_flight, sizeof *c->sent_at);
    }
    c->filled = 0;
    c->state = CONNECTING;
    watch(c, EPOLL_CTL_ADD, EPOLLOUT);
}

static void ask(struct connection *c)
{
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error)
        fail("connect: %s", strerror(error));
    char request[256];
    int size = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
                        "Connection: Upgrade\r\nSec-WebSocket-Key: " KEY "\r\n"
                        "Sec-WebSocket-Version: 13\r\n\r\n",
                        c->path, c->port);
    if (send(c->fd, request, size, MSG_NOSIGNAL) != size)
        fail("send: %s", strerror(errno));
    c->state = HANDSHAKING;
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

static void check_answer(struct connection *c)
{
    static const char status[] = "HTTP/1.1 101 ";
    receive(c);
    unsigned char *end = memmem(c->in, c->filled, "\r\n\r\n", 4);
    if (end == NULL)
        return;
    if (memcmp(c->in, status, sizeof status - 1))
        fail("the handshake was answered %.60s", (char *)c->in);
    if (!memmem(c->in, end - c->in, ACCEPT, sizeof ACCEPT - 1))
        fail("the handshake was answered with a wrong Sec-WebSocket-Accept");
    c->filled -= end + 4 - c->in;
    memmove(c->in, end + 4, c->filled);
    c->state = OPEN;
    opened++;
}

/* Wait for events and bring connections to OPEN; what is open is for `handle`. */
static void turn(void (*handle)(struct connection *))
{
    static struct epoll_event events[EVENTS];
    int number = epoll_wait(poller, events, EVENTS, STALL_MS);
    if (number == 0)
        fail("no answer for %d seconds, %d connections open", STALL_MS / 1000, opened);
    for (int i = 0; i < number; i++) {
        struct connection *c = events[i].data.ptr;
        if (c->state == CONNECTING)
            ask(c);
        else if (c->state == HANDSHAKING) {
            check_answer(c);
            if (c->state == OPEN && handle != NULL)
                handle(c);
        } else if (handle != NULL)
            handle(c);
    }
}

static void open_all(void (*handle)(struct connection *))
{
    int started = 0;
    while (opened < options.connections) {
        while (started < options.connections && started - opened < OPENED_AT_ONCE)
            start(connections + started++);
        turn(handle);
    }
}

static void count_messages(struct connection *c, int messages)
{
    uint64_t time = now();
    count += messages;
    for (int i = 0; i < messages; i++) {
        uint64_t us = (time - c->sent_at[c->received++ % options.in_flight]) / 1000;
        latencies[us < LATENCIES ? us : LATENCIES - 1]++;
    }
}

static void on_echo(struct connection *c)
{
    flush(c);
    receive(c);
    int messages = take_messages(c);
    count_messages(c, messages);
    if (messages)
        send_messages(c, messages);
}

static void on_only_echo(struct connection *c)
{
    receive(c);
    count += take_messages(c);
}

static void on_broadcast(struct connection *c)
{
    static int missing;
    receive(c);
    int messages = take_messages(c);
    if (missing == 0)
        missing = options.connections;
    missing -= messages;
    count += messages;
    if (missing == 0) {
        /* From the first one's sending to the last one's receiving. */
        uint64_t us = (now() - connections->sent_at[0]) / 1000;
        latencies[us < LATENCIES ? us : LATENCIES - 1]++;
        send_messages(connections, 1);
    }
}

static void on_cycle(struct connection *c)
{
    static const unsigned char close_1000[] = {0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8};
    unsigned char ignored[256];
    if (c->state == OPEN) {
        send(c->fd, close_1000, sizeof close_1000, MSG_NOSIGNAL);
        c->state = CLOSING;
        return;
    }
    ssize_t size = recv(c->fd, ignored, sizeof ignored, 0);
    if (size > 0 || (size < 0 && errno == EAGAIN))
        return;
    /* It is the server that has to end the connection (section 7.1.1). */
    close(c->fd);
    count++;
    opened--;
    uint64_t us = (now() - c->sent_at[0]) / 1000;
    latencies[us < LATENCIES ? us : LATENCIES - 1]++;
    start(c);
    c->sent_at[0] = now();
}

static void wait_for_line(void)
{
    int byte;
    fflush(stdout);
    do
        byte = getchar();
    while (byte != '\n' && byte != EOF);
}

static void ready(void)
{
    puts("ready");
    wait_for_line();
}

static uint64_t percentile(double part)
{
    uint64_t all = 0, below = 0;
    for (int us = 0; us < LATENCIES; us++)
        all += latencies[us];
    for (int us = 0; us < LATENCIES; us++) {
        below += latencies[us];
        if (all && below >= part * all)
            return us;
    }
    return 0;
}

static void report(uint64_t since)
{
    printf("{\"count\": %lu, \"seconds\": %.6f, \"p50\": %lu, \"p99\": %lu}\n",
           (unsigned long)count, (now() - since) / 1e9, (unsigned long)percentile(.5),
           (unsigned long)percentile(.99));
    wait_for_line();
}

static void run(void (*handle)(struct connection *), uint64_t since)
{
    uint64_t end = since + options.seconds * 1e9;
    while (now() < end)
        turn(handle);
    report(since);
}

static void echo(void)
{
    open_all(NULL);
    ready();
    uint64_t since = now();
    for (int i = 0; i < options.connections; i++)
        send_messages(connections + i, options.in_flight);
    run(on_echo, since);
}

static void broadcast(void)
{
    options.path = "/broadcast";
    open_all(NULL);
    /* A handler may take its client into the set a moment after the handshake. */
    sleep(1);
    ready();
    uint64_t since = now();
    send_messages(connections, 1);
    run(on_broadcast, since);
}

static void connect_and_close(void)
{
    for (int i = 0; i < options.connections; i++) {
        start(connections + i);
        connections[i].sent_at[0] = now();
    }
    /* What the server imports or compiles at the first connection is not to count. */
    while (count < 20 * (uint64_t)options.connections)
        turn(on_cycle);
    count = 0;
    memset(latencies, 0, sizeof latencies);
    ready();
    run(on_cycle, now());
}

static void hold(void)
{
    ready();
    uint64_t since = now();
    open_all(NULL);
    for (int i = 0; i < options.connections; i++)
        send_messages(connections + i, 1);
    while (count < (uint64_t)options.connections)
        turn(on_only_echo);
    run(NULL, since);
}

/* The fan-out: what its listeners get, and whether all have it. */

#define LARGEST_FANOUT 1024            /* of a message */
#define MOST_PORTS 8
/* Digits of a message's number, with which it begins. */
#define NUMBER 10

static struct {
    int listeners, joined;
    unsigned sent, complete;
    unsigned char *expected;           /* a ring of frames, as the server has to send them */
    size_t length;                     /* of such a frame */
    int *missing;                      /* a ring: the listeners that do not have it yet */
    unsigned char *out;                /* what the publisher has still to send */
    size_t filled;
} fan;

static size_t masked_frame(unsigned char *to, const char *text, size_t length)
{
    static const unsigned char mask[4] = {0x12, 0x34, 0x56, 0x78};
    size_t head = write_head(to, TEXT, true, length);
    memcpy(to + head, mask, 4);
    head += 4;
    for (size_t i = 0; i < length; i++)
        to[head + i] = text[i] ^ mask[i & 3];
    return head + length;
}

static void say(struct connection *c, const char *text)
{
    unsigned char frame[64];
    ssize_t size = masked_frame(frame, text, strlen(text));
    if (send(c->fd, frame, size, MSG_NOSIGNAL) != size)
        fail("send: %s", strerror(errno));
}

static void hear(struct connection *c, const char *text, size_t length)
{
    bool publishes = c == connections;
    bool joins = options.socketio && length > 2 && !memcmp(text, "40", 2);
    if (!options.socketio)
        joins = !publishes && length == 6 && !memcmp(text, "joined", 6);
    if (joins && fan.joined < options.connections)
        fan.joined++;
    else if (options.socketio && length > 0 && text[0] == '0')
        say(c, publishes ? "40{\"publishes\":true}" : "40");
    else if (options.socketio && length == 1 && text[0] == '2')
        say(c, "3");
    else
        fail("message %u of connection %d was %.*s", c->received, (int)(c - connections),
             (int)(length < 60 ? length : 60), text);
}

static void on_fanout(struct connection *c)
{
    size_t position = 0;
    receive(c);
    for (;;) {
        unsigned char *at = c->in + position;
        size_t left = c->filled - position;
        int slot = c->received % options.in_flight;
        if (c->received < fan.sent && left >= fan.length &&
            !memcmp(at, fan.expected + slot * fan.length, fan.length)) {
            position += fan.length;
            c->received++;
            count++;
            if (--fan.missing[slot] == 0) {
                uint64_t us = (now() - connections->sent_at[slot]) / 1000;
                latencies[us < LATENCIES ? us : LATENCIES - 1]++;
                fan.complete++;
            }
            continue;
        }
        struct head head;
        size_t size = read_head(at, left, &head);
        if (size == 0 || left - size < head.length)
            break;
        if (head.opcode == CLOSE)
            fail("the server sent a Close");
        if (head.masked || !head.fin || (head.opcode < CLOSE && head.opcode != TEXT))
            fail("the server sent a masked, fragmented or binary frame");
        if (head.opcode == TEXT)
            hear(c, (char *)at + size, head.length);
        position += size + head.length;
    }
    if (position) {
        memmove(c->in, c->in + position, c->filled - position);
        c->filled -= position;
    }
    if (c->filled == capacity)
        fail("the server sent a longer frame than it was given");
}

static void publish(void)
{
    char payload[LARGEST_FANOUT + 64], event[LARGEST_FANOUT + 64];
    int slot = fan.sent % options.in_flight;
    int length = snprintf(payload, sizeof payload, "%0*u", NUMBER, fan.sent);
    while (length < (int)options.size)
        payload[length] = 'a' + length % 26, length++;
    payload[length] = 0;
    const char *format = options.socketio ? "42[\"%s\",\"%s\"]" : "%2$s";
    int size = snprintf(event, sizeof event, format, "message", payload);
    unsigned char head[LONGEST_HEAD];
    size_t written = write_head(head, TEXT, false, size);
    fan.length = written + size;
    unsigned char *frame = fan.expected + slot * fan.length;
    memcpy(frame, head, written);
    memcpy(frame + written, event, size);
    size = snprintf(event, sizeof event, format, "publish", payload);
    fan.filled += masked_frame(fan.out + fan.filled, event, size);
    fan.missing[slot] = fan.listeners;
    connections->sent_at[slot] = now();
    fan.sent++;
}

static void send_published(void)
{
    if (fan.filled && send(connections->fd, fan.out, fan.filled, MSG_NOSIGNAL) != (ssize_t)fan.filled)
        fail("the server does not take what is published: %s", strerror(errno));
    fan.filled = 0;
}

static void fanout(void)
{
    open_all(on_fanout);
    if (!options.socketio)
        fan.joined++;                  /* the publisher is not told */
    while (fan.joined < options.connections)
        turn(on_fanout);
    /* What the server imports or compiles at the first message is not to count. */
    publish();
    send_published();
    while (fan.complete < fan.sent)
        turn(on_fanout);
    count = 0;
    memset(latencies, 0, sizeof latencies);
    ready();
    uint64_t since = now(), end = since + options.seconds * 1e9;
    do {
        while (now() < end && fan.sent - fan.complete < (unsigned)options.in_flight)
            publish();
        send_published();
        if (fan.complete < fan.sent)
            turn(on_fanout);
    } while (fan.complete < fan.sent || now() < end);
    report(since);
}

static void prepare_fanout(char *ports)
{
    int known[MOST_PORTS], number = 0;
    for (char *port = strtok(ports, ","); port && number < MOST_PORTS; port = strtok(NULL, ","))
        known[number++] = atoi(port);
    fan.listeners = options.connections - 1;
    size_t longest = options.size + 64;
    fan.expected = allocate(options.in_flight, longest);
    fan.missing = allocate(options.in_flight, sizeof *fan.missing);
    fan.out = allocate(options.in_flight, longest);
    capacity = options.in_flight * longest + 4096;
    for (int i = 0; i < options.connections; i++) {
        connections[i].port = known[i == 0 ? 0 : (i - 1) % number];
        connections[i].path = i == 0 ? "/publish" : "/listen";
        if (options.socketio)
            connections[i].path = "/socket.io/?EIO=4&transport=websocket";
    }
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    void (*work)(void) = NULL;
    if (!strcmp(mode, "echo") && argc == 8) {
        work = echo;
        options.in_flight = atoi(argv[5]);
        options.seconds = atof(argv[6]);
        options.opcode = argv[7][0] == 'b' ? BINARY : TEXT;
    } else if (!strcmp(mode, "broadcast") && argc == 6) {
        work = broadcast;
        options.seconds = atof(argv[5]);
    } else if (!strcmp(mode, "connect") && argc == 5) {
        work = connect_and_close;
        options.seconds = atof(argv[4]);
    } else if (!strcmp(mode, "hold") && argc == 5) {
        work = hold;
    } else if (!strcmp(mode, "fanout") && argc == 8) {
        work = fanout;
        options.in_flight = atoi(argv[5]);
        options.seconds = atof(argv[6]);
        options.socketio = argv[7][0] == 's';
    } else {
        fail("usage: see the head of wsload.c");
    }
    options.port = atoi(argv[2]);
    options.connections = atoi(argv[3]);
    options.size = work == connect_and_close ? 0 : atol(argv[4]);
    if (options.connections < 1 || options.in_flight < 1)
        fail("at least one connection and one message in flight");
    alarm(LONGEST_RUN);
    if (work == fanout && (options.size < NUMBER || options.size > LARGEST_FANOUT))
        fail("messages of %d to %d bytes", NUMBER, LARGEST_FANOUT);
    options.connections += work == fanout;
    make_frames();
    connections = allocate(options.connections, sizeof *connections);
    if (work == fanout)
        prepare_fanout(argv[2]);
    poller = epoll_create1(0);
    work();
    return 0;
}
