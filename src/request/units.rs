//! Durations and amounts as people write them.

use std::num::NonZeroU64;
use std::time::Duration;

/// Reads a positive duration in Go's notation: numbers with `h`, `m`, `s` or `ms`, one after the other.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0_u128;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = rest.split_at(digits);
        let end = unit.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit.len());
        let (unit, tail) = unit.split_at(end);
        let nanos: u128 = match unit {
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = match number.split_once('.') {
            Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
            Some(_) => return None,
            None => (number, ""),
        };
        let fraction = fraction.get(..fraction.len().min(9)).unwrap_or_default();
        let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let part = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? };
        let whole = whole.parse::<u128>().ok()?.checked_mul(nanos)?;
        total = total.checked_add(whole)?.checked_add(part.checked_mul(nanos)? / scale)?;
        rest = tail;
    }
    // The API server reads durations as signed 64-bit nanoseconds; nothing longer can come from there.
    let nanos = u64::try_from(i64::try_from(total).ok()?).ok()?;
    (!text.is_empty()).then(|| Duration::from_nanos(nanos))
}

/// Reads a whole number with an optional decimal or binary unit.
pub(super) fn bytes(text: &str) -> Option<NonZeroU64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    NonZeroU64::new(number.parse::<u64>().ok()?.checked_mul(factor)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, seconds) in [("6h", 21_600.0), ("90m", 5400.0), ("1h30m", 5400.0), ("0.5h", 1800.0), ("1500ms", 1.5)]
        {
            assert_eq!(duration(text), Some(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "6", "h", "6d", "-6h", "6 h", "6.h", ".5h", "1h 30m", "99999999999h", "1..2h", "+6h"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn amounts_have_decimal_and_binary_units() {
        for (text, value) in [("1", 1), ("200Mi", 200 << 20), ("5k", 5000), ("3T", 3_000_000_000_000), ("1Ti", 1 << 40)]
        {
            assert_eq!(bytes(text).map(NonZeroU64::get), Some(value), "{text}");
        }
        for text in ["", "0", "Mi", "1.5Gi", "-1", "1m", "1 Mi", "99999999999999999Ti"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn reading_never_panics(text in ".*", near in "[0-9.]{0,30}(h|m|s|ms|Mi|Ti)?") {
            let _ = (duration(&text), bytes(&text), duration(&near), bytes(&near));
        }
    }
}
