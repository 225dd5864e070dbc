//! Numbers as JSON has them.

use super::text::Text;

pub(super) fn integer(out: &mut Text, n: i64) {
    if n < 0 {
        out.push(b'-');
    }
    whole(out, n.unsigned_abs());
}

/// Digits where they are to stand: taken from a buffer of their own just after they were written there in pairs, they would
/// have to be waited for.
#[inline(always)]
pub(super) fn whole(out: &mut Text, mut n: u64) {
    const PAIRS: &[u8; 200] = &pairs();
    let mut pairs = out.next(count_digits(n)).rchunks_exact_mut(2);
    for pair in &mut pairs {
        let at = (n % 100) as usize * 2;
        n /= 100;
        pair.copy_from_slice(&PAIRS[at..at + 2]);
    }
    if let [digit] = pairs.into_remainder() {
        *digit = b'0' + n as u8;
    }
}

#[inline(always)]
fn count_digits(mut n: u64) -> usize {
    let mut count = 1;
    loop {
        match n {
            0..10 => return count,
            10..100 => return count + 1,
            100..1000 => return count + 2,
            1000..10_000 => return count + 3,
            _ => {
                n /= 10_000;
                count += 4;
            }
        }
    }
}

const fn pairs() -> [u8; 200] {
    let mut pairs = [0; 200];
    let mut n = 0;
    while n < 100 {
        pairs[n * 2] = b'0' + (n / 10) as u8;
        pairs[n * 2 + 1] = b'0' + (n % 10) as u8;
        n += 1;
    }
    pairs
}

/// The shortest digits that read back as the same number. JSON has no infinity, but Python's parser makes one of a number
/// that is too large.
pub(super) fn real(out: &mut Text, x: f64) {
    if let Some(thousandths) = short(x.abs()) {
        decimal(out, x.is_sign_negative(), thousandths);
    } else if x.is_finite() {
        out.put(zmij::Buffer::new().format_finite(x).as_bytes());
    } else if x.is_nan() {
        out.put(b"null");
    } else {
        out.put(if x > 0.0 { b"9e999" } else { b"-9e999" });
    }
}

/// The number in thousandths, if three decimals say it all. A division of whole numbers gives the double that is nearest to
/// the quotient, so these digits read back as the same number; no two numbers of fifteen digits or less do, so they are the
/// shortest.
#[inline(always)]
fn short(x: f64) -> Option<u64> {
    let thousandths = (x * 1000.0 + 0.5) as i64;
    (x < 1e12 && thousandths as f64 / 1000.0 == x).then_some(thousandths as u64)
}

#[inline(always)]
fn decimal(out: &mut Text, negative: bool, thousandths: u64) {
    if negative {
        out.push(b'-');
    }
    let part = thousandths % 1000;
    whole(out, thousandths / 1000);
    let digit = |n: u64| b'0' + (n % 10) as u8;
    let digits = [b'.', digit(part / 100), digit(part / 10), digit(part)];
    // JSON readers take a number without a point for an integer.
    let zeros = usize::from(part.is_multiple_of(10)) + usize::from(part.is_multiple_of(100));
    out.put(&digits[..digits.len() - zeros]);
}

#[cfg(test)]
mod tests {
    use super::{Text, integer, real, whole};
    use proptest::prelude::*;

    fn text(write: impl FnOnce(&mut Text)) -> String {
        let mut out = Text::default();
        write(&mut out);
        String::from_utf8(out.into_vec()).expect("digits")
    }

    #[test]
    fn integers_of_every_length() {
        let mut edge = 1_u64;
        for _ in 0..20 {
            for n in [edge - 1, edge, edge + 1, edge * 9] {
                assert_eq!(text(|out| whole(out, n)), n.to_string());
                let n = n.cast_signed();
                assert_eq!(text(|out| integer(out, n)), n.to_string());
                assert_eq!(text(|out| integer(out, n.wrapping_neg())), n.wrapping_neg().to_string());
            }
            edge = edge.saturating_mul(10).min(u64::MAX / 9);
        }
        assert_eq!(text(|out| whole(out, u64::MAX)), u64::MAX.to_string());
        assert_eq!(text(|out| integer(out, i64::MIN)), i64::MIN.to_string());
    }

    #[test]
    fn reals_around_the_short_ones() {
        for (x, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (0.001, "0.001"),
            (-0.25, "-0.25"),
            (0.0005, "0.0005"),
            (19.99, "19.99"),
            (100.0, "100.0"),
            (0.1 + 0.2, "0.30000000000000004"),
            (999_999_999_999.999, "999999999999.999"),
            (1e12, "1000000000000.0"),
        ] {
            assert_eq!(text(|out| real(out, x)), expected);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn reals_are_as_short_as_can_be(digits in 0_u64..10_u64.pow(16), decimals in 0_u32..5, nudge in -2_i64..3) {
            let x = digits as f64 / 10_f64.powi(decimals.cast_signed());
            let x = f64::from_bits(x.to_bits().saturating_add_signed(nudge));
            prop_assume!(x.is_finite());
            let shortest = zmij::Buffer::new().format_finite(x).to_owned();
            prop_assert_eq!(text(|out| real(out, x)), shortest);
        }
    }
}
