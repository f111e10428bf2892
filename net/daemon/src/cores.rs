//! Which processors serve, given what the operator wants and what the process may use.

use aspis_config::Cores;

/// Returns the processor of each core of ours, ascending, or a sentence that says why it cannot be so.
pub(crate) fn choose(wanted: &Cores, available: &[usize]) -> Result<Vec<usize>, String> {
    let listed = || available.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    match wanted {
        Cores::All => Ok(available.to_vec()),
        Cores::Count(count) if *count <= available.len() => Ok(available[..*count].to_vec()),
        Cores::Count(count) => Err(format!(
            "invalid value '{count}' for '--cores': the process may use {} ({})",
            available.len(),
            listed()
        )),
        Cores::List(list) => match list.iter().find(|cpu| !available.contains(cpu)) {
            None => Ok(list.clone()),
            Some(cpu) => Err(format!(
                "invalid value '{cpu}' for '--cores': the process may use only these: {}",
                listed()
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_some_or_these() {
        assert_eq!(choose(&Cores::All, &[0, 2, 5]), Ok(vec![0, 2, 5]));
        assert_eq!(choose(&Cores::Count(2), &[0, 2, 5]), Ok(vec![0, 2]));
        assert_eq!(choose(&Cores::List(vec![2, 5]), &[0, 2, 5]), Ok(vec![2, 5]));
    }

    #[test]
    fn what_is_not_there_is_named_with_what_is() {
        let error = choose(&Cores::Count(4), &[0, 2, 5]).expect_err("too many");
        assert_eq!(error, "invalid value '4' for '--cores': the process may use 3 (0,2,5)");
        let error = choose(&Cores::List(vec![2, 3]), &[0, 2, 5]).expect_err("not ours");
        assert_eq!(error, "invalid value '3' for '--cores': the process may use only these: 0,2,5");
    }
}
