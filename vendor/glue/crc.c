/*
 * Stands in for byteCrc32 in uv_segment.c and uv_snapshot.c: the same checksum (polynomial 0x04c11db7, highest bit first),
 * eight bytes at a time instead of one. Every byte that is written to the disk or read at a start passes here.
 */
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

enum { SLICES = 8 };

/* table[k][b]: what byte b does to the checksum when k bytes follow it. */
static uint32_t table[SLICES][256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fill(void)
{
	for (uint32_t byte = 0; byte < 256; byte++) {
		uint32_t crc = byte << 24;
		for (int bit = 0; bit < 8; bit++) {
			crc = crc << 1 ^ (crc >> 31 != 0 ? 0x04c11db7u : 0);
		}
		table[0][byte] = crc;
	}
	for (int k = 1; k < SLICES; k++) {
		for (int byte = 0; byte < 256; byte++) {
			uint32_t crc = table[k - 1][byte];
			table[k][byte] = crc << 8 ^ table[0][crc >> 24];
		}
	}
}

static uint32_t big_endian(const uint8_t *bytes)
{
	return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

unsigned glue_crc32(const void *data, size_t size, unsigned init);
unsigned glue_crc32(const void *data, size_t size, unsigned init)
{
	const uint8_t *bytes = data;
	uint32_t crc = init;
	pthread_once(&once, fill);
	for (; size >= SLICES; size -= SLICES, bytes += SLICES) {
		uint32_t first = crc ^ big_endian(bytes), second = big_endian(bytes + 4);
		crc = table[7][first >> 24] ^ table[6][first >> 16 & 255] ^ table[5][first >> 8 & 255] ^
		      table[4][first & 255] ^ table[3][second >> 24] ^ table[2][second >> 16 & 255] ^
		      table[1][second >> 8 & 255] ^ table[0][second & 255];
	}
	for (; size > 0; size--, bytes++) {
		crc = crc << 8 ^ table[0][crc >> 24 ^ *bytes];
	}
	return crc;
}
