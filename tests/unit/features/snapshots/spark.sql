WITH `windows` AS (
  SELECT
    `transaction_id`,
    `event_time_us`,
    `customer`,
    `merchant`,
    `amount_minor`,
    `country`,
    `score`,
    `is_fraud`,
    `known_at_us`,
    CASE
      WHEN NOT `customer` IS NULL
      THEN COUNT(*) OVER (
        PARTITION BY `customer`, CASE WHEN `customer` IS NULL THEN `transaction_id` END
        ORDER BY `event_time_us`
        RANGE BETWEEN 3600000000 PRECEDING AND 1 PRECEDING
      )
    END AS `agg_1`,
    CASE
      WHEN NOT `customer` IS NULL
      THEN COUNT(`amount_minor`) OVER (
        PARTITION BY `customer`, CASE WHEN `customer` IS NULL THEN `transaction_id` END
        ORDER BY `event_time_us`
        RANGE BETWEEN 3600000000 PRECEDING AND 1 PRECEDING
      )
    END AS `agg_2`,
    CASE
      WHEN NOT `customer` IS NULL
      THEN SUM(CAST(`amount_minor` AS DECIMAL(38, 0))) OVER (
        PARTITION BY `customer`, CASE WHEN `customer` IS NULL THEN `transaction_id` END
        ORDER BY `event_time_us`
        RANGE BETWEEN 3600000000 PRECEDING AND 1 PRECEDING
      )
    END AS `agg_3`,
    CASE
      WHEN NOT `customer` IS NULL
      THEN SUM(CAST(`amount_minor` AS DECIMAL(38, 0)) * CAST(`amount_minor` AS DECIMAL(38, 0))) OVER (
        PARTITION BY `customer`, CASE WHEN `customer` IS NULL THEN `transaction_id` END
        ORDER BY `event_time_us`
        RANGE BETWEEN 3600000000 PRECEDING AND 1 PRECEDING
      )
    END AS `agg_4`,
    CASE
      WHEN NOT `customer` IS NULL
      THEN STDDEV_SAMP(`score`) OVER (
        PARTITION BY `customer`, CASE WHEN `customer` IS NULL THEN `transaction_id` END
        ORDER BY `event_time_us`
        RANGE BETWEEN 3600000000 PRECEDING AND 1 PRECEDING
      )
    END AS `agg_5`,
    CASE
      WHEN NOT `merchant` IS NULL
      THEN MAX(`amount_minor`) OVER (
        PARTITION BY `merchant`, CASE WHEN `merchant` IS NULL THEN `transaction_id` END
        ORDER BY `event_time_us` - `event_time_us` % 86400000000
        RANGE BETWEEN 604800000000 PRECEDING AND 1 PRECEDING
      )
    END AS `agg_6`,
    CASE
      WHEN NOT `merchant` IS NULL
      THEN MAX(`amount_minor`) OVER (
        PARTITION BY `merchant`, CASE WHEN `merchant` IS NULL THEN `transaction_id` END, `event_time_us` - `event_time_us` % 86400000000
        ORDER BY `event_time_us`
        RANGE BETWEEN 86400000000 PRECEDING AND 1 PRECEDING
      )
    END AS `agg_7`
  FROM transactions
), `labels_merchant` AS (
  SELECT
    `merchant`,
    `event_time_us`,
    `__is_probe`,
    COUNT(CAST(`is_fraud` AS INT)) OVER (
      PARTITION BY `merchant`
      ORDER BY `event_time_us`
      RANGE BETWEEN 2592000000000 PRECEDING AND 1 PRECEDING
    ) AS `agg_9`,
    SUM(CAST(`is_fraud` AS INT)) OVER (
      PARTITION BY `merchant`
      ORDER BY `event_time_us`
      RANGE BETWEEN 2592000000000 PRECEDING AND 1 PRECEDING
    ) AS `agg_10`,
    SUM(CAST(`is_fraud` AS INT)) OVER (
      PARTITION BY `merchant`
      ORDER BY `event_time_us` - `event_time_us` % 86400000000
      RANGE BETWEEN 2592000000000 PRECEDING AND 1 PRECEDING
    ) AS `agg_11`,
    SUM(CAST(`is_fraud` AS INT)) OVER (
      PARTITION BY `merchant`, `event_time_us` - `event_time_us` % 86400000000
      ORDER BY `event_time_us`
      RANGE BETWEEN 86400000000 PRECEDING AND 1 PRECEDING
    ) AS `agg_12`
  FROM (
    SELECT
      `merchant`,
      `event_time_us`,
      CAST(NULL AS INT) AS `is_fraud`,
      1 AS `__is_probe`
    FROM transactions
    WHERE
      NOT `merchant` IS NULL
    GROUP BY
      `merchant`,
      `event_time_us`
    UNION ALL
    SELECT
      `merchant`,
      `known_at_us` AS `event_time_us`,
      CAST(`is_fraud` AS INT) AS `is_fraud`,
      0 AS `__is_probe`
    FROM labels
    WHERE
      NOT `merchant` IS NULL AND NOT `is_fraud` IS NULL AND NOT `known_at_us` IS NULL
  ) AS `stream`
), `distinct_agg_8` AS (
  SELECT
    `merchant`,
    `event_time_us`,
    `__is_probe`,
    SUM(`__delta`) OVER (
      PARTITION BY `merchant`
      ORDER BY `event_time_us`
      RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS `agg_8`
  FROM (
    SELECT
      `merchant`,
      `event_time_us`,
      COUNT(`customer`) AS `__delta`,
      1 AS `__is_probe`
    FROM transactions
    WHERE
      NOT `merchant` IS NULL
    GROUP BY
      `merchant`,
      `event_time_us`
    UNION ALL
    SELECT
      `merchant`,
      CASE
        WHEN `__next_value` = `__value` AND `__next_time_us` < `event_time_us` + 604800000000
        THEN `__next_time_us`
        ELSE `event_time_us` + 604800000000
      END AS `event_time_us`,
      -1 AS `__delta`,
      0 AS `__is_probe`
    FROM (
      SELECT
        `merchant`,
        `event_time_us`,
        `customer` AS `__value`,
        LEAD(`event_time_us`) OVER (PARTITION BY `merchant` ORDER BY `customer`, `event_time_us`) AS `__next_time_us`,
        LEAD(`customer`) OVER (PARTITION BY `merchant` ORDER BY `customer`, `event_time_us`) AS `__next_value`
      FROM transactions
      WHERE
        NOT `merchant` IS NULL AND NOT `customer` IS NULL
    ) AS `uses`
  ) AS `changes`
), `previous_customer` AS (
  SELECT
    `customer`,
    `event_time_us`,
    LAG(`event_time_us`) OVER (PARTITION BY `customer` ORDER BY `event_time_us`) AS `__previous_time_us`,
    LAG(`amount_minor`) OVER (PARTITION BY `customer` ORDER BY `event_time_us`) AS `agg_13`,
    LAG(`country`) OVER (PARTITION BY `customer` ORDER BY `event_time_us`) AS `agg_14`
  FROM (
    SELECT
      `customer`,
      `event_time_us`,
      `amount_minor`,
      `country`,
      ROW_NUMBER() OVER (
        PARTITION BY `customer`, `event_time_us`
        ORDER BY `amount_minor` DESC, `country` DESC
      ) AS `__place`
    FROM transactions
    WHERE
      NOT `customer` IS NULL
  ) AS `moments`
  WHERE
    `__place` = 1
)
SELECT
  `windows`.`transaction_id`,
  `windows`.`event_time_us`,
  `windows`.`customer`,
  `windows`.`merchant`,
  `windows`.`amount_minor`,
  `windows`.`country`,
  `windows`.`score`,
  `windows`.`is_fraud`,
  `windows`.`known_at_us`,
  CAST(COALESCE(`windows`.`agg_1`, 0) AS DOUBLE) AS `count_1h`,
  CASE
    WHEN `windows`.`agg_2` > 1
    THEN SQRT(
      CAST(CAST(`windows`.`agg_2` AS DECIMAL(38, 0)) * `windows`.`agg_4` - `windows`.`agg_3` * `windows`.`agg_3` AS DOUBLE) / CAST(`windows`.`agg_2` * (
        `windows`.`agg_2` - 1
      ) AS DOUBLE)
    )
  END AS `std_1h`,
  CAST(`windows`.`agg_3` AS DOUBLE) / CAST(NULLIF(`windows`.`agg_2`, 0) AS DOUBLE) AS `mean_1h`,
  CAST(`windows`.`agg_5` AS DOUBLE) AS `score_std_1h`,
  CAST(COALESCE(GREATEST(`windows`.`agg_6`, `windows`.`agg_7`), `windows`.`agg_6`, `windows`.`agg_7`) AS DOUBLE) AS `max_7d`,
  CAST(NULLIF(`distinct_agg_8`.`agg_8`, 0) AS DOUBLE) AS `customers_7d`,
  CAST(`labels_merchant`.`agg_10` AS DOUBLE) / CAST(NULLIF(`labels_merchant`.`agg_9`, 0) AS DOUBLE) AS `fraud_rate_30d`,
  CAST(COALESCE(
    (
      COALESCE(`labels_merchant`.`agg_11`, 0) + COALESCE(`labels_merchant`.`agg_12`, 0)
    ),
    0
  ) AS DOUBLE) AS `frauds_30d`,
  CASE
    WHEN `windows`.`event_time_us` - `previous_customer`.`__previous_time_us` <= 7776000000000
    THEN CAST(`windows`.`event_time_us` - `previous_customer`.`__previous_time_us` AS DOUBLE) / CAST(1000000 AS DOUBLE)
  END AS `gap`,
  CASE
    WHEN `windows`.`event_time_us` - `previous_customer`.`__previous_time_us` <= 604800000000
    THEN `previous_customer`.`agg_14`
  END AS `country_before`,
  CASE
    WHEN `windows`.`event_time_us` - `previous_customer`.`__previous_time_us` <= 7776000000000
    THEN CAST(`previous_customer`.`agg_13` AS DOUBLE)
  END AS `amount_before`
FROM `windows`
LEFT JOIN `labels_merchant`
  ON `labels_merchant`.`__is_probe` = 1
  AND `labels_merchant`.`merchant` = `windows`.`merchant`
  AND `labels_merchant`.`event_time_us` = `windows`.`event_time_us`
LEFT JOIN `distinct_agg_8`
  ON `distinct_agg_8`.`__is_probe` = 1
  AND `distinct_agg_8`.`merchant` = `windows`.`merchant`
  AND `distinct_agg_8`.`event_time_us` = `windows`.`event_time_us`
LEFT JOIN `previous_customer`
  ON `previous_customer`.`customer` = `windows`.`customer`
  AND `previous_customer`.`event_time_us` = `windows`.`event_time_us`
