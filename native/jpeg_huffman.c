#include <string.h>

#include "jpeg_session.h"
#include "vectorised.h"

/* The beginning of a structure that libjpeg keeps to itself. It has been the same since libjpeg 6b of 1998, and was in
 * libjpeg-turbo 3.2. With the headers of a version 4 all is left to libjpeg, until somebody has looked. */
struct jpeg_entropy_decoder {
    void (*start_pass)(j_decompress_ptr cinfo);
    boolean (*decode_mcu)(j_decompress_ptr cinfo, JBLOCKROW *blocks);
};

#define BEFORE 4000000 /* LIBJPEG_TURBO_VERSION_NUMBER of 4.0 */

/* An entry of `huffman_table.whole`: a coefficient, the zeros before it, the bits of both together. */
#define ENTRY(value, zeros, length) ((int32_t)((uint32_t)(value) << 16) | (zeros) << 8 | (length))
#define VALUE(entry) ((entry) >> 16)
#define ZEROS(entry) ((entry) >> 8 & 0xFF)
#define LENGTH(entry) ((entry) & 0xFF)

#define END_OF_BLOCK 128    /* as a number of zeros: more than a block has */
#define SIXTEEN_ZEROS 0xF0  /* as a symbol, which else is zeros << 4 | bits of the value */
#define NO_DC INT32_MIN

static const uint8_t natural_order[DCTSIZE2] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

/* The number that `size` bits stand for: those that begin with a zero are negative. */
INLINED int extended(int bits, int size) { return bits < 1 << size >> 1 ? bits - (1 << size) + 1 : bits; }

/* Fills in the entries of one code, which are 1 << (LOOKUP_BITS - length), if its values end within LOOKUP_BITS. */
static void add_whole(int32_t *entries, int symbol, int length, int is_ac) {
    int size = symbol & 15, zeros = symbol >> 4, rest = LOOKUP_BITS - length - size;
    if (rest < 0 || (is_ac && symbol == SIXTEEN_ZEROS)) return;
    if (is_ac && size == 0) zeros = END_OF_BLOCK;
    for (int bits = 0; bits < 1 << size; bits++) {
        int32_t entry = ENTRY(extended(bits, size), zeros, length + size);
        for (int i = 0; i < 1 << rest; i++) *entries++ = entry;
    }
}

/* Returns whether `from` is a sound table; libjpeg checks only those that it uses. */
static int make_table(huffman_table *table, const JHUFF_TBL *from, int is_ac) {
    if (!from) return 0;
    if (table->made && !memcmp(table->bits, from->bits, sizeof table->bits) &&
        !memcmp(table->symbols, from->huffval, sizeof table->symbols))
        return 1;
    table->made = 0;
    memcpy(table->bits, from->bits, sizeof table->bits);
    memcpy(table->symbols, from->huffval, sizeof table->symbols);
    memset(table->whole, 0, sizeof table->whole);
    uint32_t code = 0;
    int place = 0;
    for (int length = 1; length <= 16; length++, code <<= 1) {
        if (place + from->bits[length] > 256 || code + from->bits[length] > 1u << length) return 0;
        table->offsets[length] = place - (int32_t)code;
        for (int i = 0; i < from->bits[length]; i++, code++, place++)
            if (length <= LOOKUP_BITS)
                add_whole(table->whole + (code << (LOOKUP_BITS - length)), from->huffval[place], length, is_ac);
        table->limits[length] = code << (16 - length);
    }
    return table->made = 1;
}

/* What of a jpeg_huffman changes with each code: in a variable of its own, the compiler keeps it in registers. */
typedef struct {
    uint64_t bits;
    int count;
    const uint8_t *next;
} input;

#define READY 56 /* bits, after `refill` */

/* Has READY bits or more, or all that there are before a marker, and zeros behind those. Else `bits` goes on, behind
 * `count`, with bits of the byte at `next`, to which the next call adds the same once more. */
INLINED void refill(input *in) {
    uint64_t word;
    memcpy(&word, in->next, sizeof word);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    const uint64_t ones = 0x0101010101010101u, tops = ones << 7;
    if (__builtin_expect(!((~word - ones) & word & tops), 1)) { /* no byte is 0xFF */
        in->bits |= word >> in->count;
        in->next += (63 - in->count) >> 3;
        in->count |= READY;
        return;
    }
    while (in->count < READY) {
        uint64_t byte = in->next[0];
        if (byte == 0xFF && in->next[1] != 0) return; /* a marker: `count` may be below 0 from now on */
        in->next += byte == 0xFF ? 2 : 1;
        in->bits |= byte << (READY - in->count);
        in->count += 8;
    }
}

INLINED void take(input *in, int count) {
    in->bits <<= count;
    in->count -= count;
}

INLINED int32_t entry_of_next(const input *in, const huffman_table *table) {
    return table->whole[in->bits >> (64 - LOOKUP_BITS)];
}

/* Takes a code of any length, and returns its symbol, or -1 where there is no such code. */
INLINED int take_symbol(input *in, const huffman_table *table) {
    uint32_t code = (uint32_t)(in->bits >> 48);
    for (int length = 1; length <= 16; length++)
        if (code < table->limits[length]) {
            take(in, length);
            return table->symbols[(int)(code >> (16 - length)) + table->offsets[length]];
        }
    return -1;
}

INLINED int take_value(input *in, int size) {
    if (size == 0) return 0;
    int bits = (int)(in->bits >> (64 - size));
    take(in, size);
    return extended(bits, size);
}

/* Returns the difference to the component's last DC, or NO_DC. */
INLINED int take_dc(input *in, const huffman_table *table) {
    refill(in);
    int32_t entry = entry_of_next(in, table);
    if (entry) {
        take(in, LENGTH(entry));
        return VALUE(entry);
    }
    int size = take_symbol(in, table);
    return size < 0 ? NO_DC : take_value(in, size);
}

/* Takes the 63 others, and writes those that are not zero, unless `block` is NULL. Returns whether they are sound. */
INLINED int take_ac(input *in, const huffman_table *table, JCOEFPTR block) {
    int place = 1;
    while (place < DCTSIZE2) {
        refill(in);
        int32_t entry = 0;
        for (int i = 0; i < READY / LOOKUP_BITS; i++) {
            entry = entry_of_next(in, table);
            if (!entry) break;
            take(in, LENGTH(entry));
            place += ZEROS(entry);
            if (place >= DCTSIZE2) return place >= END_OF_BLOCK;
            if (block) block[natural_order[place]] = (JCOEF)VALUE(entry);
            if (++place == DCTSIZE2) return 1;
        }
        if (entry) continue;
        refill(in);
        int symbol = take_symbol(in, table), size = symbol & 15;
        if (symbol < 0) return 0;
        if (size == 0 && symbol != SIXTEEN_ZEROS) return 1;
        place += symbol >> 4;
        int value = take_value(in, size); /* 0 behind fifteen of SIXTEEN_ZEROS */
        if (place >= DCTSIZE2) return 0;
        if (block) block[natural_order[place]] = (JCOEF)value;
        place++;
    }
    return 1;
}

INLINED int take_mcu(jpeg_huffman *huffman, j_decompress_ptr cinfo, input *in, JBLOCKROW *blocks) {
    for (int i = 0; i < cinfo->blocks_in_MCU; i++) {
        int component = cinfo->MCU_membership[i];
        const jpeg_component_info *info = cinfo->cur_comp_info[component];
        int difference = take_dc(in, &huffman->dc[info->dc_tbl_no]);
        if (difference == NO_DC) return 0;
        int dc = huffman->last_dc[component] += difference;
        if (dc != (JCOEF)dc) return 0;
        if (blocks) (*blocks[i])[0] = (JCOEF)dc;
        if (!take_ac(in, &huffman->ac[info->ac_tbl_no], blocks ? *blocks[i] : NULL) || in->count < 0) return 0;
    }
    return 1;
}

_Noreturn static void give_up(jpeg_reader *reader) {
    reader->huffman.gave_up = 1;
    snprintf(reader->message, IMS_MESSAGE, "Huffman codes that are not sound");
    jpeg_session_fail(reader, IMS_DAMAGED);
}

/* Passes over the restart marker that comes next, and nothing but padding to the byte before it. */
static int take_restart(jpeg_huffman *huffman, j_decompress_ptr cinfo, input *in) {
    refill(in);
    int sound = 0 <= in->count && in->count < 8 && in->next[0] == 0xFF && in->next[1] == JPEG_RST0 + huffman->restart;
    *in = (input){0, 0, in->next + 2};
    huffman->restart = (huffman->restart + 1) & 7;
    huffman->until_restart = cinfo->restart_interval;
    memset(huffman->last_dc, 0, sizeof huffman->last_dc);
    return sound;
}

/* Takes the place of libjpeg's: fills in the blocks of the next MCU, which are zero; NULL: passes over them. */
static boolean decode_mcu(j_decompress_ptr cinfo, JBLOCKROW *blocks) {
    jpeg_reader *reader = cinfo->client_data;
    jpeg_huffman *huffman = &reader->huffman;
    input in = {huffman->bits, huffman->count, huffman->next};
    if (cinfo->restart_interval) {
        if (huffman->until_restart == 0 && !take_restart(huffman, cinfo, &in)) give_up(reader);
        huffman->until_restart--;
    }
    /* Twice, for the compiler to leave the test of `blocks` out of the loops. */
    int sound = blocks ? take_mcu(huffman, cinfo, &in, blocks) : take_mcu(huffman, cinfo, &in, NULL);
    if (!sound) give_up(reader);
    huffman->bits = in.bits;
    huffman->count = in.count;
    huffman->next = in.next;
    if (--huffman->left == 0) jpeg_session_go_on(reader, in.next); /* to the next marker */
    return TRUE;
}

int jpeg_huffman_attach(jpeg_huffman *huffman, j_decompress_ptr cinfo) {
    /* Several scans, progressive or not, have been read by now. A lossless one has no such coefficients. */
    if (LIBJPEG_TURBO_VERSION_NUMBER >= BEFORE || jpeg_has_multiple_scans(cinfo) || cinfo->arith_code ||
        cinfo->Ss != 0 || cinfo->Se != DCTSIZE2 - 1)
        return 0;
    for (int i = 0; i < cinfo->comps_in_scan; i++) {
        const jpeg_component_info *info = cinfo->cur_comp_info[i];
        if (!make_table(&huffman->dc[info->dc_tbl_no], cinfo->dc_huff_tbl_ptrs[info->dc_tbl_no], 0) ||
            !make_table(&huffman->ac[info->ac_tbl_no], cinfo->ac_huff_tbl_ptrs[info->ac_tbl_no], 1))
            return 0;
        huffman->last_dc[i] = 0;
    }
    huffman->restart = 0;
    huffman->until_restart = cinfo->restart_interval;
    huffman->bits = 0;
    huffman->count = 0;
    huffman->next = cinfo->src->next_input_byte;
    huffman->left = cinfo->MCUs_per_row * cinfo->MCU_rows_in_scan;
    cinfo->entropy->decode_mcu = decode_mcu;
    return 1;
}
