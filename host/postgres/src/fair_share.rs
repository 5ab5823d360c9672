//! Divides a limit among types. Pure: it knows no types, only what each one wants.

/// The shares of `limit`; none is larger than what is wanted. Each place gets an equal share first, then what the
/// others left over. The division begins at the place `start`; callers vary it, so that a share that rounds to nothing
/// does not always fall on the same place.
pub(crate) fn fair_share(limit: u32, wanted: &[u32], start: usize) -> Vec<u32> {
    let mut shares = vec![0; wanted.len()];
    let mut left = limit;
    let rotated = || (0..wanted.len()).map(|index| (start + index) % wanted.len());
    for (index, place) in rotated().enumerate() {
        let others = u32::try_from(wanted.len() - index).unwrap_or(u32::MAX);
        shares[place] = wanted[place].min(left.div_ceil(others));
        left -= shares[place];
    }
    for place in rotated() {
        let more = (wanted[place] - shares[place]).min(left);
        shares[place] += more;
        left -= more;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_more_than_wanted_and_nothing_is_left_while_somebody_wants_more() {
        assert_eq!(fair_share(10, &[20, 1], 0), [9, 1]);
        assert_eq!(fair_share(10, &[20, 1], 1), [9, 1]);
        assert_eq!(fair_share(10, &[2, 3], 0), [2, 3]);
        assert_eq!(fair_share(9, &[5, 0, 9, 9], 2), [2, 0, 5, 2]);
        assert_eq!(fair_share(0, &[5], 0), [0]);
        assert!(fair_share(5, &[], 0).is_empty());
    }

    #[test]
    fn a_limit_below_the_number_of_types_falls_on_each_in_turn() {
        let firsts = [0, 1, 2].map(|start| fair_share(1, &[9, 9, 9], start));
        assert_eq!(firsts, [[1, 0, 0], [0, 1, 0], [0, 0, 1]]);
    }
}
