//! Stage one for a lone byte: all its positions in a window, 128 bytes at a time and without a branch per position.
//!
//! Searching for one record end after the other costs a call and a mispredicted branch each, which for short lines is
//! most of the time. Here each 128 bytes become a mask with a bit for each match, and in each half of it the positions of
//! up to four bits are written whether they are there or not; only the count says how many of them stay. The loop is the
//! same everywhere, the mask comes from what the processor has. The unsafe code is calls of functions compiled for
//! instructions that the caller knows to be there, and their loads.

#![cfg_attr(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    expect(unsafe_code, reason = "whether the processor has the instructions is known here, not to the compiler")
)]

/// What came of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    /// Bytes of the window searched, all of it unless there was no more room.
    pub(super) looked: usize,
    /// Positions written.
    pub(super) found: usize,
}

/// Bytes looked at together; in most of them there is no end of a long line.
pub(super) const BLOCK: usize = 128;

/// Blocks gone through together, one for each bit of a word.
const SPAN: usize = 64;

/// A bit for each byte of a block, in the order of the bytes.
type Mask = [u64; 2];

/// Writes to `found` the positions of `byte` in `window`, counted from `base` below its start; stops where there might not
/// be room for those of 128 bytes more. Where matches are `dense`, it does not ask each block first whether it has one.
#[inline]
pub(super) fn positions(byte: u8, window: &[u8], base: u32, dense: bool, found: &mut [u32]) -> Done {
    #[cfg(target_arch = "x86_64")]
    if x86::has_avx2() {
        // SAFETY: the processor has what the function is compiled for, as it was just asked.
        return unsafe { x86::positions_avx2(byte, window, base, dense, found) };
    }
    positions_baseline(byte, window, base, dense, found)
}

/// With what every processor of the target has.
fn positions_baseline(byte: u8, window: &[u8], base: u32, dense: bool, found: &mut [u32]) -> Done {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has SSE2.
    return unsafe { x86::positions_sse2(byte, window, base, dense, found) };
    #[cfg(target_arch = "aarch64")]
    // SAFETY: every processor of an aarch64 target of std has NEON.
    return unsafe { arm::positions_neon(byte, window, base, dense, found) };
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return search(window, base, dense, found, |block| mask_portable(byte, block), some_bit, |mask| *mask);
}

/// The loop, compiled once for each kind of comparison. What `compare` tells of a block becomes a mask only if any byte of it
/// matches.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a block is far shorter than 4 GiB")]
#[expect(clippy::inline_always, reason = "it must be compiled with the features of its caller")]
fn search<E>(
    window: &[u8],
    base: u32,
    dense: bool,
    found: &mut [u32],
    compare: impl Fn(&[u8; BLOCK]) -> E,
    any: impl Fn(&E) -> bool,
    mask: impl Fn(&E) -> Mask,
) -> Done {
    let (blocks, rest) = window.as_chunks::<BLOCK>();
    let mut done = Done { looked: 0, found: 0 };
    // Which blocks have a match comes first, without a branch; only then are those gone through. A branch on each block
    // would be guessed wrong about once for each long line. Of short lines all blocks have some.
    for span in blocks.chunks(SPAN) {
        let mut hits = if dense {
            u64::MAX.unbounded_shr((SPAN - span.len()) as u32)
        } else {
            span.iter().rev().fold(0, |hits, block| hits << 1 | u64::from(any(&compare(block))))
        };
        while hits != 0 {
            let index = hits.trailing_zeros() as usize;
            hits &= hits - 1;
            let (Some(block), at) = (span.get(index), done.looked + index * BLOCK) else { break };
            let Some(room) = found.get_mut(done.found..).and_then(|room| room.first_chunk_mut()) else {
                return Done { looked: at, ..done };
            };
            done.found += write(mask(&compare(block)), base, at, room);
        }
        done.looked += span.len() * BLOCK;
    }
    if !rest.is_empty() {
        let Some(room) = found.get_mut(done.found..).and_then(|room| room.first_chunk_mut()) else { return done };
        let mut block = [0; BLOCK];
        block.iter_mut().zip(rest).for_each(|(place, byte)| *place = *byte);
        // The padding may look like a match.
        let [low, high] = mask(&compare(&block));
        let kept = |from: usize| u64::MAX.unbounded_shr(64_u32.saturating_sub(rest.len().saturating_sub(from) as u32));
        done.found += write([low & kept(0), high & kept(64)], base, done.looked, room);
        done.looked += rest.len();
    }
    done
}

/// For comparisons that are masks.
fn some_bit(mask: &Mask) -> bool {
    *mask != [0, 0]
}

/// Writes the positions of the bits, and tells how many there are.
#[inline(always)]
#[expect(clippy::inline_always, reason = "it must be compiled with the features of its caller")]
#[expect(clippy::cast_possible_truncation, reason = "a window is far shorter than 4 GiB")]
fn write([low, high]: Mask, base: u32, looked: usize, room: &mut [u32; BLOCK]) -> usize {
    let base = base.wrapping_add(looked as u32);
    let few = low.count_ones() as usize;
    write_half(low, base, room.as_mut_slice());
    write_half(high, base.wrapping_add(64), room.get_mut(few..).unwrap_or_default());
    few + high.count_ones() as usize
}

/// Writes the positions of the bits to the front of `room`, where there is room for 64, and maybe something behind them.
#[inline(always)]
#[expect(clippy::inline_always, reason = "it must be compiled with the features of its caller")]
fn write_half(mut mask: u64, base: u32, room: &mut [u32]) {
    let count = mask.count_ones() as usize;
    let mut step = |place: &mut u32| {
        *place = base.wrapping_add(mask.trailing_zeros());
        mask &= mask.wrapping_sub(1);
    };
    if let Some((first, more)) = room.split_first_chunk_mut::<4>() {
        first.iter_mut().for_each(&mut step);
        if count > 4 {
            more.iter_mut().take(count - 4).for_each(&mut step);
        }
    }
}

/// A mask without vector instructions.
#[cfg(any(test, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
fn mask_portable(byte: u8, block: &[u8; BLOCK]) -> Mask {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let (words, _) = block.as_chunks::<8>();
    let half = |words: &[[u8; 8]]| {
        words.iter().rev().fold(0, |mask, word| {
            let differs = u64::from_le_bytes(*word) ^ (u64::from(byte) * 0x0101_0101_0101_0101);
            // The high bit of each byte that is zero, exactly: no carry leaves a byte.
            let equal = !(((differs & LOW) + LOW) | differs | LOW);
            // Gathers those eight bits into the top byte.
            mask << 8 | (equal >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
        })
    };
    let (low, high) = words.split_at(8);
    [half(low), half(high)]
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, __m256i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8, _mm256_cmpeq_epi8,
        _mm256_loadu_si256, _mm256_movemask_epi8, _mm256_or_si256, _mm256_set1_epi8,
    };

    use super::{BLOCK, Done, search, some_bit};

    #[inline]
    pub(super) fn has_avx2() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("popcnt")
    }

    #[target_feature(enable = "avx2,bmi1,popcnt")]
    pub(super) fn positions_avx2(byte: u8, window: &[u8], base: u32, dense: bool, found: &mut [u32]) -> Done {
        let wanted = _mm256_set1_epi8(byte.cast_signed());
        let bits = |equal| u64::from(_mm256_movemask_epi8(equal).cast_unsigned());
        let compare = |block: &[u8; BLOCK]| {
            let equal = |quarter: usize| {
                block
                    .as_chunks::<32>()
                    .0
                    .get(quarter)
                    .map_or(wanted, |quarter| _mm256_cmpeq_epi8(load_256(quarter), wanted))
            };
            [equal(0), equal(1), equal(2), equal(3)]
        };
        let any =
            |[a, b, c, d]: &[__m256i; 4]| bits(_mm256_or_si256(_mm256_or_si256(*a, *b), _mm256_or_si256(*c, *d))) != 0;
        search(window, base, dense, found, compare, any, |[a, b, c, d]| {
            [bits(*b) << 32 | bits(*a), bits(*d) << 32 | bits(*c)]
        })
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn load_256(bytes: &[u8; 32]) -> __m256i {
        // SAFETY: the 32 bytes are there to be read, and need no alignment.
        unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
    }

    #[target_feature(enable = "sse2")]
    pub(super) fn positions_sse2(byte: u8, window: &[u8], base: u32, dense: bool, found: &mut [u32]) -> Done {
        let wanted = _mm_set1_epi8(byte.cast_signed());
        let mask = |block: &[u8; BLOCK]| {
            let (parts, _) = block.as_chunks::<16>();
            let half = |parts: &[[u8; 16]]| {
                parts.iter().rev().fold(0, |mask, part| {
                    let equal = _mm_cmpeq_epi8(load_128(part), wanted);
                    mask << 16 | u64::from(_mm_movemask_epi8(equal).cast_unsigned())
                })
            };
            let (low, high) = parts.split_at(4);
            [half(low), half(high)]
        };
        search(window, base, dense, found, mask, some_bit, |mask| *mask)
    }

    #[target_feature(enable = "sse2")]
    #[inline]
    fn load_128(bytes: &[u8; 16]) -> __m128i {
        // SAFETY: the 16 bytes are there to be read, and need no alignment.
        unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::{
        uint8x16_t, vaddv_u8, vandq_u8, vceqq_u8, vcombine_u8, vcreate_u8, vdupq_n_u8, vget_high_u8, vget_low_u8,
        vld1q_u8,
    };

    use super::{BLOCK, Done, search, some_bit};

    /// What each lane adds to its half's byte of the mask.
    const BITS: u64 = 0x8040_2010_0804_0201;

    #[target_feature(enable = "neon")]
    pub(super) fn positions_neon(byte: u8, window: &[u8], base: u32, dense: bool, found: &mut [u32]) -> Done {
        let (wanted, bits) = (vdupq_n_u8(byte), vcombine_u8(vcreate_u8(BITS), vcreate_u8(BITS)));
        let mask = |block: &[u8; BLOCK]| {
            let (parts, _) = block.as_chunks::<16>();
            let half = |parts: &[[u8; 16]]| {
                parts.iter().rev().fold(0, |mask, part| {
                    let matches = vandq_u8(vceqq_u8(load(part), wanted), bits);
                    let (low, high) = (vaddv_u8(vget_low_u8(matches)), vaddv_u8(vget_high_u8(matches)));
                    mask << 16 | u64::from(high) << 8 | u64::from(low)
                })
            };
            let (low, high) = parts.split_at(4);
            [half(low), half(high)]
        };
        search(window, base, dense, found, mask, some_bit, |mask| *mask)
    }

    #[target_feature(enable = "neon")]
    #[inline]
    fn load(bytes: &[u8; 16]) -> uint8x16_t {
        // SAFETY: the 16 bytes are there to be read, and need no alignment.
        unsafe { vld1q_u8(bytes.as_ptr()) }
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "the numbers are small")]
mod tests {
    use super::*;

    /// So short that it cannot be wrong. Where the positions no longer fit, it stops at a block's end.
    fn naive(byte: u8, window: &[u8], base: u32, dense: bool, room: usize) -> (Done, Vec<u32>) {
        let (mut looked, mut found) = (0, Vec::new());
        for block in window.chunks(BLOCK) {
            let positions: Vec<u32> =
                (0..block.len()).filter(|at| block[*at] == byte).map(|at| base + (looked + at) as u32).collect();
            // Which needs no room, but where it is not looked for.
            let whole_and_empty = block.len() == BLOCK && positions.is_empty();
            if found.len() + BLOCK > room && (dense || !whole_and_empty) {
                break;
            }
            found.extend(positions);
            looked += block.len();
        }
        (Done { looked, found: found.len() }, found)
    }

    type Search = fn(u8, &[u8], u32, bool, &mut [u32]) -> Done;

    const PATHS: [(&str, Search); 3] = [
        ("chosen", positions),
        ("baseline", positions_baseline),
        ("portable", |byte, window, base, dense, found| {
            search(window, base, dense, found, |block| mask_portable(byte, block), some_bit, |mask| *mask)
        }),
    ];

    #[test]
    fn every_path_finds_what_the_naive_twin_finds() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut below = |bound: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 16) % bound
        };
        for round in 0..if cfg!(miri) { 60 } else { 20_000 } {
            let (byte, density, base) = (below(256) as u8, below(300) + 1, below(1 << 30) as u32);
            let offset = below(64) as usize;
            // Zeros too: they are what the last block is padded with. High and neighbouring bytes try the arithmetic.
            let others = [0, byte ^ 1, byte ^ 0x80, byte.wrapping_add(1), below(256) as u8];
            let input: Vec<u8> = (0..offset as u64 + below(1400))
                .map(|_| if below(density) == 0 { byte } else { others[below(5) as usize] })
                .collect();
            let window = &input[offset..];
            let room = BLOCK + below(600) as usize;
            let dense = below(2) == 0;
            let (done, positions) = naive(byte, window, base, dense, room);
            for (name, search) in PATHS {
                let mut found = vec![0; room];
                assert_eq!(search(byte, window, base, dense, &mut found), done, "{name}, round {round}");
                assert_eq!(found[..done.found], positions, "{name}, round {round}");
            }
        }
    }
}
