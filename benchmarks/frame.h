/* The head of a WebSocket frame (RFC 6455 section 5.2), read and written. */
#ifndef FRAME_H
#define FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10, LONGEST_HEAD = 14 };

struct head {
    int opcode;
    bool fin, masked;
    uint64_t length;
    unsigned char mask[4];
};

/* Bytes that the head takes, or 0 when more have to be read first. */
static inline size_t read_head(const unsigned char *bytes, size_t available, struct head *head)
{
    if (available < 2)
        return 0;
    size_t extended = (bytes[1] & 127) == 126 ? 2 : (bytes[1] & 127) == 127 ? 8 : 0;
    head->fin = bytes[0] & 128;
    head->opcode = bytes[0] & 15;
    head->masked = bytes[1] & 128;
    size_t size = 2 + extended + (head->masked ? 4 : 0);
    if (available < size)
        return 0;
    head->length = extended ? 0 : bytes[1] & 127;
    for (size_t i = 0; i < extended; i++)
        head->length = head->length << 8 | bytes[2 + i];
    if (head->masked)
        for (int i = 0; i < 4; i++)
            head->mask[i] = bytes[2 + extended + i];
    return size;
}

/* Bytes written; the mask, if there is to be one, is the caller's to append. */
static inline size_t write_head(unsigned char *bytes, int opcode, bool masked, uint64_t length)
{
    size_t extended = length < 126 ? 0 : length < 65536 ? 2 : 8;
    bytes[0] = 128 | opcode;
    bytes[1] = (masked ? 128 : 0) | (extended == 0 ? length : extended == 2 ? 126 : 127);
    for (size_t i = 0; i < extended; i++)
        bytes[2 + i] = length >> 8 * (extended - 1 - i);
    return 2 + extended;
}

#endif
