//! Dates and times as Go's JSON encoder writes them, which is what dqlitepy's users have been
//! reading.

use super::text::Text;

/// `YYYY-MM-DDThh:mm:ssZ` in UTC, or nothing for a year that RFC 3339 cannot write.
pub(super) fn from_unix(seconds: i64) -> Option<[u8; 20]> {
    // 0000-01-01 and 9999-12-31 in seconds.
    if !(-62_167_219_200..=253_402_300_799).contains(&seconds) {
        return None;
    }
    let (year, month, day) = date_of(seconds.div_euclid(86_400));
    let second = seconds.rem_euclid(86_400);
    let mut out = *b"0000-00-00T00:00:00Z";
    put(&mut out[0..4], year);
    put(&mut out[5..7], month);
    put(&mut out[8..10], day);
    put(&mut out[11..13], second / 3600);
    put(&mut out[14..16], second / 60 % 60);
    put(&mut out[17..19], second % 60);
    Some(out)
}

/// `YYYY-MM-DD hh:mm:ss.fffffffff+00:00` without the zeros at the end of the fraction, as go-dqlite stores times.
pub(crate) fn sql_time(seconds: i64, nanoseconds: u32) -> Option<Vec<u8>> {
    if nanoseconds >= 1_000_000_000 {
        return None;
    }
    let mut text = from_unix(seconds)?.to_vec();
    text[10] = b' ';
    text.pop();
    if nanoseconds > 0 {
        let fraction = format!(".{nanoseconds:09}");
        text.extend_from_slice(fraction.trim_end_matches('0').as_bytes());
    }
    text.extend_from_slice(b"+00:00");
    Some(text)
}

/// The date in the Gregorian calendar, extended to the time before it was used. Years are counted
/// from March, so that the leap day is the last one, and in eras of 400 years, which all have the
/// same number of days.
fn date_of(days_since_1970: i64) -> (i64, i64, i64) {
    let days = days_since_1970 + 719_468; // since 0000-03-01
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let leap_days = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // From March on, the months repeat 31, 30, 31, 30, 31: 153 days in five months.
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

fn put(digits: &mut [u8], mut number: i64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// A date and time taken apart and checked: what RFC 3339 needs, still as text.
pub(super) struct Stamp<'a> {
    date: &'a [u8],
    hour: [u8; 2],
    /// `:mm` and, if they were there, `:ss`.
    minute_second: &'a [u8],
    fraction: &'a [u8],
    offset: &'a [u8],
}

impl<'a> Stamp<'a> {
    /// Reads one of the forms in which the engine and its clients keep times: `YYYY-MM-DD`, then
    /// maybe a blank or `T` and `hh:mm`, then maybe `:ss` with a fraction, and behind seconds maybe
    /// `±hh:mm`. One `Z` at the end is no offset but ignored, as is the fraction's tenth digit.
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        let text = text.strip_suffix(b"Z").unwrap_or(text);
        let (date, rest) = text.split_at_checked(10)?;
        if !is_date(date) {
            return None;
        }
        let midnight = Self {
            date,
            hour: *b"00",
            minute_second: b":00:00",
            fraction: b"",
            offset: b"",
        };
        let time = match rest {
            [] => return Some(midnight),
            [b' ' | b'T', time @ ..] => time,
            _ => return None,
        };
        let (hour, rest) = hour(time)?;
        let minutes_end = if colon_pair(rest, 60) { 3 } else { return None };
        if rest.len() == minutes_end {
            return Some(Self {
                hour,
                minute_second: rest,
                ..midnight
            });
        }
        if !colon_pair(&rest[minutes_end..], 60) {
            return None;
        }
        let (minute_second, rest) = rest.split_at(6);
        let (fraction, offset) = fraction(rest);
        is_offset(offset).then_some(Self {
            date,
            hour,
            minute_second,
            fraction,
            offset,
        })
    }

    /// Writes it as RFC 3339 with as many digits of the fraction as matter.
    pub(super) fn write(&self, out: &mut Text) {
        out.put(self.date);
        out.push(b'T');
        out.put(&self.hour);
        out.put(self.minute_second);
        if self.minute_second.len() == 3 {
            out.put(b":00");
        }
        if !self.fraction.is_empty() {
            out.push(b'.');
            out.put(self.fraction);
        }
        match self.offset {
            [] | [_, b'0', b'0', _, b'0', b'0'] => out.push(b'Z'),
            offset => out.put(offset),
        }
    }
}

fn is_date(text: &[u8]) -> bool {
    let &[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else {
        return false;
    };
    let (Some(century), Some(year), Some(month), Some(day)) = (two(y1, y2), two(y3, y4), two(m1, m2), two(d1, d2))
    else {
        return false;
    };
    // A century is a leap year if it divides by 4, like any other year.
    let leap = if year == 0 { century % 4 == 0 } else { year % 4 == 0 };
    let days = match month {
        2 => 28 + u8::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return false,
    };
    (1..=days).contains(&day)
}

/// The hour is the one number that may have a single digit.
fn hour(time: &[u8]) -> Option<([u8; 2], &[u8])> {
    let (hour, rest) = match time {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9', rest @ ..] => ([*tens, *ones], rest),
        [ones @ b'0'..=b'9', rest @ ..] => ([b'0', *ones], rest),
        _ => return None,
    };
    two(hour[0], hour[1]).filter(|h| *h < 24).map(|_| (hour, rest))
}

/// `:nn`, below the limit, is at the start.
fn colon_pair(text: &[u8], limit: u8) -> bool {
    matches!(text, &[b':', tens, ones, ..] if two(tens, ones).is_some_and(|n| n < limit))
}

fn fraction(text: &[u8]) -> (&[u8], &[u8]) {
    let [b'.' | b',', digits @ ..] = text else {
        return (b"", text);
    };
    let length = digits.iter().position(|b| !b.is_ascii_digit()).unwrap_or(digits.len());
    if length == 0 {
        return (b"", text);
    }
    let (digits, rest) = digits.split_at(length);
    let kept = &digits[..length.min(9)];
    let zeros = kept.iter().rev().take_while(|b| **b == b'0').count();
    (&kept[..kept.len() - zeros], rest)
}

fn is_offset(text: &[u8]) -> bool {
    match text {
        [] => true,
        &[b'+' | b'-', tens, ones, ref minutes @ ..] => {
            two(tens, ones).is_some_and(|h| h < 24) && minutes.len() == 3 && colon_pair(minutes, 60)
        }
        _ => false,
    }
}

fn two(tens: u8, ones: u8) -> Option<u8> {
    (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| (tens - b'0') * 10 + ones - b'0')
}

#[cfg(test)]
#[path = "time_tests.rs"]
mod tests;
