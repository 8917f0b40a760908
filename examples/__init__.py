"""Programs written as a user of `tenuto` would write them; they import nothing but `tenuto` and their own files."""
