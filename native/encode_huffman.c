#include "encode_huffman.h"

#include <string.h>

/* ITU-T T.81, annex K.2. One symbol more than there are, the rarest, gets the word that consists of ones, which no file
 * may use. */
enum {
    LEAVES = HUFFMAN_ALPHABET + 1,
    DEEPEST = 63 /* a tree of depth n takes the sum of the first n Fibonacci numbers: 2^40 symbols come to 57 */
};

/* Groups of symbols with equal beginnings, the rarest last. Of a group's key the upper bits are its frequency and the
 * lower 9 tell its first symbol; of equally frequent ones, that with the larger number counts as rarer. */
typedef struct {
    uint64_t keys[LEAVES];
    int count;
} group_list;

static int symbol_of(uint64_t key) { return 511 - (int)(key & 511); }

static void insert(group_list *groups, uint64_t frequency, int symbol) {
    uint64_t key = frequency << 9 | (uint64_t)(511 - symbol);
    int place = groups->count++;
    for (; place && groups->keys[place - 1] < key; place--) groups->keys[place] = groups->keys[place - 1];
    groups->keys[place] = key;
}

/* Joins groups until one is left; a symbol's depth is how often its group was joined. */
static void measure_depths(const uint64_t *frequencies, uint8_t depths[LEAVES]) {
    group_list groups = {.count = 0};
    int16_t next[LEAVES]; /* symbol of the same group, or -1 */
    memset(next, -1, sizeof next);
    memset(depths, 0, LEAVES);
    for (int symbol = 0; symbol < HUFFMAN_ALPHABET; symbol++)
        if (frequencies[symbol]) insert(&groups, frequencies[symbol], symbol);
    insert(&groups, 1, HUFFMAN_ALPHABET);
    while (groups.count > 1) {
        uint64_t rarest = groups.keys[--groups.count], second = groups.keys[--groups.count];
        int symbol = symbol_of(rarest), other = symbol_of(second);
        insert(&groups, (rarest >> 9) + (second >> 9), symbol);
        for (; next[symbol] >= 0; symbol = next[symbol]) depths[symbol]++;
        depths[symbol]++;
        next[symbol] = (int16_t)other;
        for (; other >= 0; other = next[other]) depths[other]++;
    }
}

/* Shortens words to HUFFMAN_LONGEST bits: two of the longest give way to one a bit shorter and to two that a still
 * shorter one is split into. */
static void shorten(int counts[DEEPEST + 1]) {
    for (int length = DEEPEST; length > HUFFMAN_LONGEST; length--)
        while (counts[length]) {
            int shorter = length - 2;
            while (!counts[shorter]) shorter--;
            counts[length] -= 2;
            counts[length - 1]++;
            counts[shorter + 1] += 2;
            counts[shorter]--;
        }
}

void huffman_optimise(const uint64_t frequencies[HUFFMAN_ALPHABET], huffman_code *code) {
    uint8_t depths[LEAVES];
    int counts[DEEPEST + 1] = {0}, places[DEEPEST + 2] = {0};
    measure_depths(frequencies, depths);
    for (int symbol = 0; symbol < LEAVES; symbol++) counts[depths[symbol]]++;
    counts[0] = 0; /* those that do not occur */
    for (int depth = 0; depth <= DEEPEST; depth++) places[depth + 1] = places[depth] + counts[depth];
    code->num_symbols = places[DEEPEST + 1] - 1;
    for (int symbol = 0; symbol < HUFFMAN_ALPHABET; symbol++)
        if (depths[symbol]) code->symbols[places[depths[symbol]]++] = (uint8_t)symbol;
    shorten(counts);
    int longest = HUFFMAN_LONGEST;
    while (!counts[longest]) longest--;
    counts[longest]--; /* the word of ones */
    for (int length = 0; length <= HUFFMAN_LONGEST; length++) code->counts[length] = (uint8_t)counts[length];
}

void huffman_assign(const huffman_code *code, huffman_word words[HUFFMAN_ALPHABET]) {
    memset(words, 0, HUFFMAN_ALPHABET * sizeof *words);
    int number = 0;
    unsigned word = 0;
    for (int length = 1; length <= HUFFMAN_LONGEST; length++, word <<= 1)
        for (int i = 0; i < code->counts[length]; i++)
            words[code->symbols[number++]] = (huffman_word){(uint16_t)word++, (uint8_t)length};
}
