//! Images: from archives and layouts to verified, content-addressed EROFS layers.
