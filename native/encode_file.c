#include "encode_file.h"

#include <stdlib.h>
#include <string.h>

#include "encode_huffman.h"

/* All markers, with Huffman codes of all 256 symbols: 2 + 18 + 2 * 69 + 19 + 4 * 277 + 14 + 2 bytes. */
#define MOST_MARKERS 1301

static uint8_t *put_byte(uint8_t *out, int byte) {
    *out = (uint8_t)byte;
    return out + 1;
}

static uint8_t *put_two(uint8_t *out, int number) { return put_byte(put_byte(out, number >> 8), number); }

static uint8_t *put_bytes(uint8_t *out, const void *bytes, size_t count) {
    memcpy(out, bytes, count);
    return out + count;
}

/* `length` is that of what follows, without its own two bytes. */
static uint8_t *put_marker(uint8_t *out, int marker, int length) {
    return put_two(put_two(out, 0xFF00 | marker), length + 2);
}

static uint8_t *put_start(uint8_t *out) {
    out = put_two(out, 0xFFD8);
    out = put_marker(out, 0xE0, 14); /* APP0 */
    return put_bytes(out, "JFIF\0\1\1\0\0\1\0\1\0\0", 14); /* version 1.1, square pixels, no thumbnail */
}

static uint8_t *put_quantisation(uint8_t *out, int number, const encode_quantisation *quantisation) {
    out = put_marker(out, 0xDB, 1 + COEFFICIENTS); /* DQT */
    out = put_byte(out, number);
    for (int i = 0; i < COEFFICIENTS; i++) out = put_byte(out, quantisation->steps[encode_zigzag[i]]);
    return out;
}

static uint8_t *put_frame(uint8_t *out, int width, int height) {
    out = put_marker(out, 0xC0, 15); /* SOF0: baseline */
    out = put_byte(out, 8);          /* bits a sample */
    out = put_two(put_two(out, height), width);
    return put_bytes(out, "\3\1\x22\0\2\x11\1\3\x11\1", 10); /* 3 components: number, sampling factors, quantisation */
}

static uint8_t *put_huffman(uint8_t *out, int number, const huffman_code *code) {
    out = put_marker(out, 0xC4, 17 + code->num_symbols);      /* DHT */
    out = put_byte(out, (number & 1) << 4 | (number >> 1)); /* AC?, of chroma? */
    out = put_bytes(out, code->counts + 1, HUFFMAN_LONGEST);
    return put_bytes(out, code->symbols, (size_t)code->num_symbols);
}

static uint8_t *put_scan(uint8_t *out) {
    out = put_marker(out, 0xDA, 10);                         /* SOS */
    return put_bytes(out, "\3\1\0\2\x11\3\x11\0\x3F\0", 10); /* 3 components: number, codes; coefficients 0 to 63 */
}

/* What a symbol of each kind is written as: the word, moved up by as many bits as follow it, and the length of both. */
typedef struct {
    uint32_t word;
    uint32_t length;
} written_kind;

static void make_kinds(const huffman_code codes[ENCODE_CODES], written_kind kinds[ENCODE_KINDS]) {
    for (int code = 0; code < ENCODE_CODES; code++) {
        huffman_word words[HUFFMAN_ALPHABET];
        huffman_assign(&codes[code], words);
        for (int value = 0; value < HUFFMAN_ALPHABET; value++) {
            uint32_t following = value & 15;
            kinds[code * ENCODE_ALPHABET + value] =
                (written_kind){(uint32_t)words[value].word << following, words[value].length + following};
        }
    }
}

/* A byte of ones is followed by one of zeros: it would be a marker. */
static uint8_t *put_stuffed(uint8_t *out, uint32_t word, int bytes) {
    for (int i = bytes - 1; i >= 0; i--) {
        uint8_t byte = (uint8_t)(word >> (8 * i));
        out = put_byte(out, byte);
        if (byte == 0xFF) out = put_byte(out, 0);
    }
    return out;
}

static int has_byte_of_ones(uint32_t word) { return ((~word - 0x01010101u) & word & 0x80808080u) != 0; }

static uint8_t *put_word(uint8_t *out, uint32_t word) {
    if (has_byte_of_ones(word)) return put_stuffed(out, word, 4);
    for (int i = 0; i < 4; i++) out[i] = (uint8_t)(word >> (24 - 8 * i));
    return out + 4;
}

static uint8_t *put_symbols(uint8_t *out, const encode_symbols *symbols, const written_kind kinds[ENCODE_KINDS]) {
    uint64_t waiting = 0;
    int bits = 0; /* of `waiting`: up to 31, and then 27 more */
    for (size_t i = 0; i < symbols->count; i++) {
        encode_symbol symbol = symbols->all[i];
        written_kind kind = kinds[symbol & 0xFFFF];
        waiting = waiting << kind.length | kind.word | symbol >> 16;
        bits += (int)kind.length;
        if (bits >= 32) {
            bits -= 32;
            out = put_word(out, (uint32_t)(waiting >> bits));
        }
    }
    int missing = -bits & 7; /* are ones */
    return put_stuffed(out, (uint32_t)(waiting << missing | ((1u << missing) - 1)), (bits + missing) / 8);
}

/* The bytes of the file at most: every byte of the scan may be one of ones. */
static size_t most_bytes(const encode_symbols *symbols, const written_kind kinds[ENCODE_KINDS]) {
    uint64_t bits = 0;
    for (int kind = 0; kind < ENCODE_KINDS; kind++) bits += symbols->frequencies[kind] * kinds[kind].length;
    return MOST_MARKERS + 2 * (size_t)(bits / 8 + 1);
}

ims_status encode_file(int width, int height, const encode_quantisation quantisation[2], const encode_symbols *symbols,
                       uint8_t **out, int64_t *length) {
    huffman_code codes[ENCODE_CODES];
    written_kind kinds[ENCODE_KINDS];
    for (int i = 0; i < ENCODE_CODES; i++) huffman_optimise(symbols->frequencies + i * ENCODE_ALPHABET, &codes[i]);
    make_kinds(codes, kinds);
    uint8_t *file = malloc(most_bytes(symbols, kinds));
    if (!file) return IMS_MEMORY;
    uint8_t *end = put_start(file);
    for (int i = 0; i < 2; i++) end = put_quantisation(end, i, &quantisation[i]);
    end = put_frame(end, width, height);
    for (int i = 0; i < ENCODE_CODES; i++) end = put_huffman(end, i, &codes[i]);
    end = put_symbols(put_scan(end), symbols, kinds);
    end = put_two(end, 0xFFD9);
    *length = end - file;
    *out = file;
    return IMS_OK;
}
