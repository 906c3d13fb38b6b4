//! What is noted of each request: a column's entry a row, or, where requests are not kept, an entry only
//! while a request is under way.

use std::collections::HashMap;

use super::Options;
use super::rows::Rows;

/// One entry a request that arrived, in the order of arrival.
#[derive(Debug, Default, Clone)]
pub struct RequestColumns {
    /// The workload's row.
    pub row: Vec<u32>,
    pub replica: Vec<u32>,
    /// The number of its sequence in its replica's events.
    pub sequence: Vec<u32>,
    pub arrival_s: Vec<f64>,
    pub first_scheduled_s: Vec<f64>,
    pub first_token_s: Vec<f64>,
    pub finish_s: Vec<f64>,
    pub cached_tokens: Vec<u32>,
    pub output_tokens: Vec<u32>,
    pub preemptions: Vec<u32>,
    /// 0 unfinished, 1 stop, 2 length
    pub reason: Vec<u8>,
}

impl RequestColumns {
    /// Entries of `rows` requests of which nothing has happened.
    fn blank(rows: usize, replicas: u32) -> Self {
        RequestColumns {
            row: Vec::new(),
            replica: if replicas > 1 { vec![0; rows] } else { Vec::new() },
            sequence: Vec::new(),
            arrival_s: vec![f64::NAN; rows],
            first_scheduled_s: vec![f64::NAN; rows],
            first_token_s: vec![f64::NAN; rows],
            finish_s: vec![f64::NAN; rows],
            cached_tokens: vec![0; rows],
            output_tokens: vec![0; rows],
            preemptions: vec![0; rows],
            reason: vec![0; rows],
        }
    }

    /// The place of a new entry at the end.
    fn grow(&mut self) -> u32 {
        for column in
            [&mut self.arrival_s, &mut self.first_scheduled_s, &mut self.first_token_s, &mut self.finish_s]
        {
            column.push(f64::NAN);
        }
        for column in [&mut self.cached_tokens, &mut self.output_tokens, &mut self.preemptions] {
            column.push(0);
        }
        self.reason.push(0);
        self.reason.len() as u32 - 1
    }

    /// Makes an entry as if nothing had happened.
    fn clear(&mut self, at: usize) {
        self.first_scheduled_s[at] = f64::NAN;
        self.first_token_s[at] = f64::NAN;
        self.finish_s[at] = f64::NAN;
        self.cached_tokens[at] = 0;
        self.output_tokens[at] = 0;
        self.preemptions[at] = 0;
        self.reason[at] = 0;
    }

    fn arrange(&mut self, order: &[u32]) {
        fn take<T: Copy>(column: &mut Vec<T>, order: &[u32]) {
            if !column.is_empty() {
                *column = order.iter().map(|&row| column[row as usize]).collect();
            }
        }
        let times =
            [&mut self.arrival_s, &mut self.first_scheduled_s, &mut self.first_token_s, &mut self.finish_s];
        times.into_iter().for_each(|column| take(column, order));
        let counts =
            [&mut self.replica, &mut self.cached_tokens, &mut self.output_tokens, &mut self.preemptions];
        counts.into_iter().for_each(|column| take(column, order));
        take(&mut self.reason, order);
    }
}

/// Where the requests under way stand in columns that are as long as the most of them at once.
#[derive(Debug, Default)]
struct Open {
    places: HashMap<u32, u32>,
    free: Vec<u32>,
}

#[derive(Debug)]
pub(super) struct Noted {
    pub columns: RequestColumns,
    /// Rows in the order of arrival, where they are kept.
    order: Vec<u32>,
    /// Where they are not.
    open: Option<Open>,
}

impl Noted {
    pub fn new(rows: usize, options: &Options) -> Self {
        let open = (!options.keep_requests).then(Open::default);
        let (rows, replicas) = if open.is_none() { (rows, options.replicas) } else { (0, 1) };
        Noted { columns: RequestColumns::blank(rows, replicas), order: Vec::new(), open }
    }

    /// Where a request stands that arrived and has not ended, or that is kept.
    #[inline]
    pub fn place(&self, row: u32) -> usize {
        match &self.open {
            None => row as usize,
            Some(open) => open.places[&row] as usize,
        }
    }

    pub fn arrived(&mut self, row: u32, replica: u32, at: f64) {
        let Some(open) = &mut self.open else {
            self.columns.arrival_s[row as usize] = at;
            if let Some(entry) = self.columns.replica.get_mut(row as usize) {
                *entry = replica;
            }
            self.order.push(row);
            return;
        };
        let place = open.free.pop().unwrap_or_else(|| self.columns.grow());
        self.columns.arrival_s[place as usize] = at;
        open.places.insert(row, place);
    }

    pub fn ended(&mut self, row: u32) {
        if let Some(open) = &mut self.open
            && let Some(place) = open.places.remove(&row)
        {
            self.columns.clear(place as usize);
            open.free.push(place);
        }
    }

    /// The columns in the order of arrival, with the numbers of the sequences in their replicas; empty where
    /// requests are not kept.
    pub fn finish<'a>(mut self, replicas: impl Iterator<Item = &'a Rows>) -> RequestColumns {
        if self.open.is_some() {
            return RequestColumns::default();
        }
        let mut numbers = vec![u32::MAX; self.columns.arrival_s.len()];
        for (number, row) in replicas.flat_map(|rows| rows.iter().enumerate()) {
            numbers[row as usize] = number as u32;
        }
        // What came after the last step was planned was never given to an engine.
        self.order.retain(|&row| numbers[row as usize] != u32::MAX);
        let in_order = self.order.iter().enumerate().all(|(at, &row)| at == row as usize);
        let mut columns = self.columns;
        columns.sequence = self.order.iter().map(|&row| numbers[row as usize]).collect();
        if !in_order || self.order.len() != columns.arrival_s.len() {
            columns.arrange(&self.order);
        }
        columns.row = self.order;
        columns
    }
}
