//! What several measurements say together.

/// The median, the 99th percentile and the largest, by nearest rank: each is a
/// value that was measured. None of no values.
pub fn spread(values: &[f64]) -> Vec<(&'static str, f64)> {
    [("p50", 50), ("p99", 99), ("max", 100)]
        .into_iter()
        .filter_map(|(name, percent)| Some((name, percentile(values, percent)?)))
        .collect()
}

/// The smallest of the values that `percent` of them, 1 to 100, do not exceed.
pub fn percentile(values: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let twenty: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        assert_eq!(
            spread(&twenty),
            [("p50", 10.0), ("p99", 20.0), ("max", 20.0)]
        );
        let thousand: Vec<f64> = (1..=1000).map(f64::from).collect();
        assert_eq!(percentile(&thousand, 99), Some(990.0));
        assert_eq!(spread(&[7.0])[0], ("p50", 7.0));
        assert_eq!(spread(&[]), []);
    }
}
