//! Kernels of a decoder step on the host's vector units, for float32.
//!
//! A step of few tokens reads every weight once and does little with it: what counts is that the memory
//! is kept busy and that no time is lost between operations. So these are few, and each does what lies between
//! two matrices in one pass.
//!
//! A row's numbers do not depend on how many rows are computed with it, nor on the threads.

pub mod attention;
pub mod cache;
pub mod linear;
pub mod rows;
pub mod team;
mod vector;

use std::marker::PhantomData;

use crate::error::{Error, Result};

/// Whether this processor multiplies and adds vectors in one instruction; without that, kernels are slow.
pub fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    return cfg!(target_arch = "aarch64");
}

/// Where vectors lie in memory that others own, by N numbers: [tokens, heads], [blocks, offsets, heads].
#[derive(Clone, Copy)]
pub struct Place<const N: usize> {
    pub shape: [usize; N],
    /// Elements from one to the next, in each of the directions.
    pub strides: [usize; N],
    /// Elements of each, in a row.
    pub size: usize,
}

impl<const N: usize> Place<N> {
    /// Elements from the first to the last.
    pub fn extent(&self) -> usize {
        if self.shape.contains(&0) || self.size == 0 {
            return 0;
        }
        self.start(self.shape.map(|length| length - 1)) + self.size
    }

    #[inline(always)]
    fn start(&self, index: [usize; N]) -> usize {
        index.iter().zip(self.strides).map(|(i, stride)| i * stride).sum()
    }
}

/// Vectors to be read. Others may lie between them, and be written to meanwhile.
#[derive(Clone, Copy)]
pub struct Vectors<'a, const N: usize> {
    data: *const f32,
    extent: usize,
    place: Place<N>,
    lent: PhantomData<&'a [f32]>,
}

// SAFETY: as of a `&[f32]`.
unsafe impl<const N: usize> Send for Vectors<'_, N> {}
unsafe impl<const N: usize> Sync for Vectors<'_, N> {}

impl<'a, const N: usize> Vectors<'a, N> {
    /// Those that begin at `data`.
    ///
    /// # Safety
    /// For as long as this is used they exist, and nobody writes to them.
    pub unsafe fn new(data: *const f32, place: Place<N>) -> Self {
        Vectors { data, extent: place.extent(), place, lent: PhantomData }
    }

    #[inline(always)]
    fn at(&self, index: [usize; N]) -> &'a [f32] {
        let start = self.place.start(index);
        assert!(start + self.place.size <= self.extent);
        // SAFETY: `new`'s caller has seen to it.
        unsafe { std::slice::from_raw_parts(self.data.add(start), self.place.size) }
    }
}

/// Vectors to be written to. Others may lie between them, and be read meanwhile.
pub struct VectorsMut<'a, const N: usize> {
    data: *mut f32,
    extent: usize,
    place: Place<N>,
    lent: PhantomData<&'a mut [f32]>,
}

// SAFETY: as of a `&mut [f32]`.
unsafe impl<const N: usize> Send for VectorsMut<'_, N> {}

impl<const N: usize> VectorsMut<'_, N> {
    /// Those that begin at `data`.
    ///
    /// # Safety
    /// For as long as this is used they exist, and nobody else uses them.
    pub unsafe fn new(data: *mut f32, place: Place<N>) -> Self {
        VectorsMut { data, extent: place.extent(), place, lent: PhantomData }
    }

    #[inline(always)]
    fn at(&mut self, index: [usize; N]) -> &mut [f32] {
        let start = self.place.start(index);
        assert!(start + self.place.size <= self.extent);
        // SAFETY: `new`'s caller has seen to it.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), self.place.size) }
    }
}

fn need(holds: bool, name: &'static str, value: impl ToString, limit: impl ToString) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::InvalidArgument { request: None, name, value: value.to_string(), limit: limit.to_string() })
}

/// Where tasks write, each to places of its own.
#[derive(Clone, Copy)]
struct Out<T>(*mut T);

// SAFETY: whoever makes one sees to it that no two tasks write to one place.
unsafe impl<T> Send for Out<T> {}
unsafe impl<T> Sync for Out<T> {}

impl<T> Out<T> {
    /// The elements from `start` on.
    ///
    /// # Safety
    /// They lie within what the pointer was made of, and no other task has any of them.
    #[allow(clippy::mut_from_ref)]
    unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}
