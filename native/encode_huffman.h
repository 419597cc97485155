/* Huffman codes made for how often each symbol occurs. */
#ifndef IMS_ENCODE_HUFFMAN_H
#define IMS_ENCODE_HUFFMAN_H

#include <stdint.h>

enum { HUFFMAN_ALPHABET = 256, HUFFMAN_LONGEST = 16 };

/* As a file has it. */
typedef struct {
    uint8_t counts[HUFFMAN_LONGEST + 1]; /* of the words of each length in bits; [0] is 0 */
    uint8_t symbols[HUFFMAN_ALPHABET];   /* in the order of their words */
    int num_symbols;
} huffman_code;

/* A symbol's word: its lower `length` bits; a length of 0 where the symbol does not occur. */
typedef struct {
    uint16_t word;
    uint8_t length;
} huffman_word;

/* Makes the code that libjpeg makes, of the symbols that occur; at least one does, and fewer than 2^40 times. */
void huffman_optimise(const uint64_t frequencies[HUFFMAN_ALPHABET], huffman_code *code);

/* Fills in the words of the code's symbols. */
void huffman_assign(const huffman_code *code, huffman_word words[HUFFMAN_ALPHABET]);

#endif
