//! Stage one for a lone byte: all its positions in a window, 64 bytes at a time and without a branch per position.
//!
//! Searching for one record end after the other costs a call and a mispredicted branch each, which for short lines is
//! most of the time. Here each 64 bytes become a mask with a bit for each match, and the positions of up to four bits are
//! written whether they are there or not; only the count says how many of them stay. The loop is the same everywhere,
//! the mask comes from what the processor has. The unsafe
//! code is three calls, each of a function compiled for instructions that the caller knows to be there.

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

/// Bytes that become one mask.
const BLOCK: usize = 64;

/// Writes to `found` the positions of `byte` in `window`; stops where there might not be room for those of 64 bytes more.
#[inline]
pub(super) fn positions(byte: u8, window: &[u8], found: &mut [u32]) -> Done {
    #[cfg(target_arch = "x86_64")]
    if x86::has_avx2() {
        // SAFETY: the processor has what the function is compiled for, as it was just asked.
        return unsafe { x86::positions_avx2(byte, window, found) };
    }
    positions_baseline(byte, window, found)
}

/// With what every processor of the target has.
fn positions_baseline(byte: u8, window: &[u8], found: &mut [u32]) -> Done {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has SSE2.
    return unsafe { x86::positions_sse2(byte, window, found) };
    #[cfg(target_arch = "aarch64")]
    // SAFETY: every processor of an aarch64 target of std has NEON.
    return unsafe { arm::positions_neon(byte, window, found) };
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return search(window, found, |block| mask_portable(byte, block));
}

/// The loop, compiled once for each kind of mask.
#[inline(always)]
#[expect(clippy::inline_always, reason = "it must be compiled with the features of its caller")]
fn search(window: &[u8], found: &mut [u32], mask: impl Fn(&[u8; BLOCK]) -> u64) -> Done {
    let (blocks, rest) = window.as_chunks::<BLOCK>();
    let mut done = Done { looked: 0, found: 0 };
    for block in blocks {
        let Some(room) = found.get_mut(done.found..).and_then(|room| room.first_chunk_mut()) else { return done };
        done.found += write(mask(block), done.looked, room);
        done.looked += BLOCK;
    }
    if rest.is_empty() {
        return done;
    }
    let Some(room) = found.get_mut(done.found..).and_then(|room| room.first_chunk_mut()) else { return done };
    let mut block = [0; BLOCK];
    block.iter_mut().zip(rest).for_each(|(place, byte)| *place = *byte);
    // The padding may look like a match.
    done.found += write(mask(&block) & ((1 << rest.len()) - 1), done.looked, room);
    done.looked += rest.len();
    done
}

/// Writes the positions of the bits, and tells how many there are.
#[inline(always)]
#[expect(clippy::inline_always, reason = "it must be compiled with the features of its caller")]
#[expect(clippy::cast_possible_truncation, reason = "a window is far shorter than 4 GiB")]
fn write(mut mask: u64, base: usize, room: &mut [u32; BLOCK]) -> usize {
    let (base, count) = (base as u32, mask.count_ones() as usize);
    let mut step = |place: &mut u32| {
        *place = base.wrapping_add(mask.trailing_zeros());
        mask &= mask.wrapping_sub(1);
    };
    let [first, second, third, fourth, more @ ..] = room;
    [first, second, third, fourth].into_iter().for_each(&mut step);
    if count > 4 {
        more.iter_mut().take(count - 4).for_each(&mut step);
    }
    count
}

/// A mask without vector instructions: bit `i` says whether byte `i` matches.
#[cfg(any(test, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
fn mask_portable(byte: u8, block: &[u8; BLOCK]) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let (words, _) = block.as_chunks::<8>();
    words.iter().rev().fold(0, |mask, word| {
        let differs = u64::from_le_bytes(*word) ^ (u64::from(byte) * 0x0101_0101_0101_0101);
        // The high bit of each byte that is zero, exactly: no carry leaves a byte.
        let equal = !(((differs & LOW) + LOW) | differs | LOW);
        // Gathers those eight bits into the top byte.
        mask << 8 | (equal >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
    })
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, __m256i, _mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi8, _mm256_cmpeq_epi8,
        _mm256_movemask_epi8, _mm256_set_epi64x, _mm256_set1_epi8,
    };

    use super::{Done, search};

    #[inline]
    pub(super) fn has_avx2() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("popcnt")
    }

    #[target_feature(enable = "avx2,bmi1,popcnt")]
    pub(super) fn positions_avx2(byte: u8, window: &[u8], found: &mut [u32]) -> Done {
        let wanted = _mm256_set1_epi8(byte.cast_signed());
        search(window, found, |block| {
            let (halves, _) = block.as_chunks::<32>();
            halves.iter().rev().fold(0, |mask, half| {
                let equal = _mm256_cmpeq_epi8(load_256(half), wanted);
                mask << 32 | u64::from(_mm256_movemask_epi8(equal).cast_unsigned())
            })
        })
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn load_256(bytes: &[u8; 32]) -> __m256i {
        let (words, _) = bytes.as_chunks::<8>();
        match words {
            [a, b, c, d] => _mm256_set_epi64x(word(*d), word(*c), word(*b), word(*a)),
            _ => _mm256_set1_epi8(0),
        }
    }

    #[target_feature(enable = "sse2")]
    pub(super) fn positions_sse2(byte: u8, window: &[u8], found: &mut [u32]) -> Done {
        let wanted = _mm_set1_epi8(byte.cast_signed());
        search(window, found, |block| {
            let (quarters, _) = block.as_chunks::<16>();
            quarters.iter().rev().fold(0, |mask, quarter| {
                let equal = _mm_cmpeq_epi8(load_128(quarter), wanted);
                mask << 16 | u64::from(_mm_movemask_epi8(equal).cast_unsigned())
            })
        })
    }

    #[target_feature(enable = "sse2")]
    #[inline]
    fn load_128(bytes: &[u8; 16]) -> __m128i {
        let (words, _) = bytes.as_chunks::<8>();
        match words {
            [a, b] => _mm_set_epi64x(word(*b), word(*a)),
            _ => _mm_set1_epi8(0),
        }
    }

    const fn word(bytes: [u8; 8]) -> i64 {
        i64::from_le_bytes(bytes)
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::{
        uint8x16_t, vaddv_u8, vandq_u8, vceqq_u8, vcombine_u8, vcreate_u8, vdupq_n_u8, vget_high_u8, vget_low_u8,
    };

    use super::{Done, search};

    /// What each lane adds to its half's byte of the mask.
    const BITS: u64 = 0x8040_2010_0804_0201;

    #[target_feature(enable = "neon")]
    pub(super) fn positions_neon(byte: u8, window: &[u8], found: &mut [u32]) -> Done {
        let (wanted, bits) = (vdupq_n_u8(byte), vcombine_u8(vcreate_u8(BITS), vcreate_u8(BITS)));
        search(window, found, |block| {
            let (quarters, _) = block.as_chunks::<16>();
            quarters.iter().rev().fold(0, |mask, quarter| {
                let matches = vandq_u8(vceqq_u8(load(quarter), wanted), bits);
                let (low, high) = (vaddv_u8(vget_low_u8(matches)), vaddv_u8(vget_high_u8(matches)));
                mask << 16 | u64::from(high) << 8 | u64::from(low)
            })
        })
    }

    #[target_feature(enable = "neon")]
    #[inline]
    fn load(bytes: &[u8; 16]) -> uint8x16_t {
        let (words, _) = bytes.as_chunks::<8>();
        match words {
            [low, high] => vcombine_u8(vcreate_u8(u64::from_le_bytes(*low)), vcreate_u8(u64::from_le_bytes(*high))),
            _ => vdupq_n_u8(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So short that it cannot be wrong; `room` is how many positions fit.
    fn naive(byte: u8, window: &[u8], room: usize) -> (Done, Vec<u32>) {
        let mut found = Vec::new();
        for start in (0..window.len()).step_by(BLOCK) {
            if found.len() + BLOCK > room {
                return (Done { looked: start, found: found.len() }, found);
            }
            found.extend((start..window.len().min(start + BLOCK)).filter(|at| window[*at] == byte).map(|at| at as u32));
        }
        (Done { looked: window.len(), found: found.len() }, found)
    }

    type Search = fn(u8, &[u8], &mut [u32]) -> Done;

    const PATHS: [(&str, Search); 3] = [
        ("chosen", positions),
        ("baseline", positions_baseline),
        ("portable", |byte, window, found| search(window, found, |block| mask_portable(byte, block))),
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
            let (byte, density) = (below(256) as u8, below(70) + 1);
            let offset = below(64) as usize;
            // Zeros too: they are what the last block is padded with. High and neighbouring bytes try the arithmetic.
            let others = [0, byte ^ 1, byte ^ 0x80, byte.wrapping_add(1), below(256) as u8];
            let input: Vec<u8> = (0..offset as u64 + below(700))
                .map(|_| if below(density) == 0 { byte } else { others[below(5) as usize] })
                .collect();
            let window = &input[offset..];
            let room = 64 + below(400) as usize;
            let (done, positions) = naive(byte, window, room);
            for (name, search) in PATHS {
                let mut found = vec![0; room];
                assert_eq!(search(byte, window, &mut found), done, "{name}, round {round}");
                assert_eq!(found[..done.found], positions, "{name}, round {round}");
            }
        }
    }
}
