"""Parts of the pages in reports/: their frame and look, charts, and pictures with boxes to leaf through."""
